"""The machine: what it is, what it allows at most, and who else is using it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.worker import tree

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
PROBE_SECONDS = 0.06


def facts(threads: int) -> dict[str, Any]:
    """What a reader needs to compare with another machine; no names, no paths."""
    text = _read("/proc/cpuinfo")
    lines = [line.partition(":") for line in text.splitlines()]
    model = next((" ".join(value.split()) for name, _, value in lines if name.strip() == "model name"), "")
    flags = next((set(value.split()) for name, _, value in lines if name.strip() == "flags"), set[str]())
    memory = _read("/proc/meminfo").partition("MemTotal:")[2].split()
    return {
        "cpu": model or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cpus": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gb": round(int(memory[0]) / 1e6, 1) if memory else None,
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled").partition("[")[2].partition("]")[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def default_threads() -> int:
    from penstock import _native

    return int(_native.default_threads())


def probe(threads: int, seconds: float = PROBE_SECONDS) -> dict[str, float]:
    """Read bandwidth in GB/s, peaks in GFLOP/s, measured now."""
    from penstock import _native

    return {name: float(value) for name, value in _native.probe(threads, seconds).items() if isinstance(value, float)}


def available_bytes() -> int:
    words = _read("/proc/meminfo").partition("MemAvailable:")[2].split()
    return int(words[0]) * 1024 if words else 1 << 62


class Watch:
    """How much of the machine others took between two moments."""

    def __init__(self, root: int) -> None:
        self.root, self.start, self.mine = root, _machine_ticks(), _own_ticks(root)

    def others(self) -> float:
        """Share of all CPUs used by foreign processes or taken by the hypervisor, 0 to 1."""
        now, mine = _machine_ticks(), _own_ticks(self.root)
        busy, idle = (a - b for a, b in zip(now, self.start))
        return max(0.0, (busy - (mine - self.mine)) / (busy + idle)) if busy + idle > 0 else 0.0


def _machine_ticks() -> tuple[int, int]:
    fields = [int(word) for word in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    if len(fields) < 8:
        return 0, 0
    return sum(fields[:3]) + sum(fields[5:8]), fields[3] + fields[4]


def _own_ticks(root: int) -> int:
    total = 0
    for pid in tree(root):
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        total += sum(int(word) for word in fields[11:15])
    return total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
