"""An engine with one format as a worker process that is asked for measurements."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, Format
from benchmarks.workloads import FIRST_PROMPT, LONGEST_MIXED, Requests, Sizes, ids

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900.0
PER_ENGINE = {"vllm": 6 << 30}
"""Memory beside the weights, where it is much."""


class BrokenError(Exception):
    """The engine stopped, answered with an error or not at all."""


@dataclass
class Contestant:
    """``checkpoint`` is what it loads, ``log`` where its stderr goes."""

    engine: str
    fmt: str
    python: str
    checkpoint: Path
    log: Path
    sizes: Sizes
    threads: int
    streams: int = 32
    version: str = ""
    weight_bytes: int = 0
    start_seconds: list[float] = field(default_factory=list)
    used: float = 0.0
    warm: set[int] = field(default_factory=set)
    broken: str = ""
    process: subprocess.Popen[str] | None = None

    @property
    def name(self) -> str:
        return f"{self.engine}:{self.fmt}"

    @property
    def format(self) -> Format:
        return PEERS[self.engine].formats[self.fmt]

    @property
    def memory(self) -> int:
        """Bytes it is likely to want."""
        return int(1.6 * size_of(self.checkpoint)) + PER_ENGINE.get(self.engine, 3 << 29)

    def spec(self) -> dict[str, Any]:
        return {
            "engine": self.engine, "format": self.fmt, "model": str(self.checkpoint), "threads": self.threads,
            "context": self.sizes.context, "context_many": -(-(LONGEST_MIXED + 1) // 256) * 256,
            "streams": self.streams, "first": ids(FIRST_PROMPT, 900),
        }  # fmt: skip

    def prepare(self) -> None:
        """Let the engine convert its checkpoint, which is not measured."""
        if self.engine == "openvino":
            self._spawn({**self.spec(), "prepare": True})
            self._answer(4 * TIMEOUT)
            self.stop()

    def start(self) -> float:
        """Start a new process; seconds until it had generated a token. The checkpoint is in the page cache."""
        self.stop()
        read_once(self.checkpoint)
        begin = time.perf_counter()
        self._spawn(self.spec())
        ready = self._answer()
        seconds = time.perf_counter() - begin
        self.version = ready["version"]
        self.weight_bytes = ready["weight_bytes"] or self.weight_bytes
        self.start_seconds.append(seconds)
        self.used, self.warm = time.monotonic(), set()
        return seconds

    def ask(self, requests: Requests) -> dict[str, Any]:
        """Run requests at once. The first time so many come, as many short ones go before, not measured: engines make
        caches and compile then."""
        if len(requests) not in self.warm:
            self.warm.add(len(requests))
            if len(requests) > 1:
                self._ask([(ids(8, 7 + i), 2) for i in range(len(requests))])
        return self._ask(requests)

    @property
    def fresh(self) -> bool:
        """Whether its process has generated one token so far."""
        return not self.warm

    def _ask(self, requests: Requests) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps({"requests": requests}) + "\n")
        self.process.stdin.flush()
        reply = self._answer()
        self.used = time.monotonic()
        return reply

    def stop(self) -> None:
        if self.process is None:
            return
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _spawn(self, spec: dict[str, Any]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "benchmarks.worker", json.dumps(spec)], cwd=ROOT, env=environment(self),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def _answer(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self.process.kill()
                raise BrokenError(f"no answer in {timeout:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            last = (self.log.read_text(errors="replace").strip().splitlines() or ["nothing on stderr"])[-1]
            raise BrokenError(f"stopped with exit code {code}: {shortened(last)}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BrokenError(shortened(str(reply["error"])))
        return reply


def environment(one: Contestant) -> dict[str, str]:
    """What the worker's engine should see: threads, and for vllm both cores, its allocator and its OpenMP."""
    env = {**os.environ, "OMP_NUM_THREADS": str(one.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src") if one.engine == "penstock" else "",
                                                      os.environ.get("PYTHONPATH", "")]))  # fmt: skip
    if one.engine != "vllm":
        return env
    cpus = sorted(os.sched_getaffinity(0))[: one.threads]
    env.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cpus)))
    env.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    env["VLLM_NO_USAGE_STATS"] = "1"
    place = Path(one.python).parent.parent
    libraries = [*Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"), *place.glob("lib/libiomp5.so")]
    if libraries:
        env.setdefault("LD_PRELOAD", ":".join(map(str, libraries)))
    return env


def shortened(text: str) -> str:
    """A message fit to be kept: one line of some length, of paths their last part only."""
    return re.sub(r"(?:/[\w.+@-]+)+/(?=[\w.+@-])", "", " ".join(text.split()))[:300]


def size_of(checkpoint: Path) -> int:
    if checkpoint.is_file():
        return checkpoint.stat().st_size
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))


def read_once(checkpoint: Path) -> None:
    """Read the files, so that every start finds them in the page cache."""
    files = [checkpoint] if checkpoint.is_file() else list(checkpoint.glob("*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            while file.read(16 << 20):
                pass
