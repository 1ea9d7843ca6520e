"""A server under real traffic: a slice of a trace at a given rate, with clients that leave early.

    python -m benchmarks.load --trace FILE [--rate 4] [--seconds 60] [--disconnects 0.1] [--model DIR | --url URL]

The trace is a CSV with ``TIMESTAMP``, ``ContextTokens`` and ``GeneratedTokens``, as the Azure LLM inference traces have
them. Its arrivals keep their pattern and are stretched to the rate; its lengths are divided by ``--shorter`` and cut to
the model's context. Each request is a stream of its own connection. One in ten leaves: before its first token, or
after some of them. Without ``--url`` a server is started in a process of its own.

Told are time to first token, between tokens (of all, and each request's mean) and of the whole, what the server
refused, and whether its gauges are back where they were, ten seconds after the last request. Exit status 1 where they
are not, or a request failed. Tokens that the server sends together come together: the median between may be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

GAUGES = ("num_requests_running", "num_requests_waiting", "kv_blocks_used", "seconds_since_step")
SETTLE_SECONDS, LOOK_SECONDS = 10.0, 0.2
EXPECTED = (200, 429, 503)
LOWEST, HIGHEST = 300, 3900
"""Token ids of prompts: plain ones in about any vocabulary."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One request: seconds after the first; how many tokens in and out; after how many it leaves (-1: it stays)."""

    when: float
    prompt: int
    answer: int
    leaves: int


@dataclass(slots=True)
class Seen:
    """What came of all requests; times in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    failed: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0


def wishes(args: argparse.Namespace, context: int) -> list[Wish]:
    """The slice of the trace, scaled."""
    count = max(2, round(args.rate * args.seconds))
    with args.trace.open(newline="") as file:
        rows = list(islice(csv.DictReader(file), args.skip, args.skip + count))
    if len(rows) < 2:
        raise SystemExit(f"{args.trace} has {len(rows)} rows behind the first {args.skip}: at least 2 are needed")
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    stretch = len(rows) / args.rate / max(times[-1] - times[0], 1e-3)
    dice = random.Random(args.seed)
    found = []
    for row, when in zip(rows, times):
        answer = min(context // 2, max(1, int(row["GeneratedTokens"]) // args.shorter))
        prompt = min(context - answer, max(1, int(row["ContextTokens"]) // args.shorter))
        leaves = dice.randrange(0, answer + 1) if dice.random() < args.disconnects else -1
        found.append(Wish((when - times[0]) * stretch, prompt, answer, leaves))
    return found


class Client:
    """Speaks to one server, a connection a request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.seen = Seen()

    async def get(self, path: str) -> str:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
        data = await reader.read()
        writer.close()
        return data.partition(b"\r\n\r\n")[2].decode()

    async def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(re.findall(r'"max_model_len":\s*(\d+)', await self.get("/v1/models"))[0])

    async def gauges(self) -> dict[str, float]:
        text = await self.get("/metrics")
        return {
            name: sum(float(v) for v in re.findall(rf"^penstock_{name}\{{.*\}} (\S+)$", text, re.MULTILINE))
            for name in GAUGES
        }

    async def ask(self, number: int, wish: Wish, began: float) -> None:
        await asyncio.sleep(max(0.0, began + wish.when - time.perf_counter()))
        seen, sent = self.seen, time.perf_counter()
        seen.late.append(sent - began - wish.when)
        dice = random.Random(number)
        body = json.dumps({
            "prompt": [dice.randint(LOWEST, HIGHEST) for _ in range(wish.prompt)], "max_tokens": wish.answer,
            "ignore_eos": True, "stream": True, "seed": number,
        }).encode()  # fmt: skip
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(head.encode() + body)
                await self._read(reader, wish, sent)
            finally:
                writer.close()
        except (OSError, ValueError, IndexError) as error:
            seen.failed.append(f"{type(error).__name__}: {error}")

    async def _read(self, reader: asyncio.StreamReader, wish: Wish, sent: float) -> None:
        seen, last, start, count = self.seen, sent, sent, 0
        if wish.leaves == 0:
            await asyncio.sleep(random.Random(wish.prompt).random() * 0.1)
            seen.left += 1
            return
        status = int((await reader.readline()).split()[1])
        seen.statuses[status] += 1
        if status != 200:
            await reader.read()
            return
        ended = False
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                ended = True
            elif line.startswith(b'data: {"error"'):
                seen.failed.append(line[:200].decode("utf-8", "replace"))
                return
            elif line.startswith(b"data: {"):
                now = time.perf_counter()
                (seen.between if count else seen.first).append(now - last)
                start = start if count else now
                last, count = now, count + 1
                if count == wish.leaves:
                    seen.left += 1
                    break
        seen.tokens += count
        if ended:
            seen.whole.append(last - sent)
            seen.mean += [(last - start) / (count - 1)] if count > 1 else []
        elif count != wish.leaves:
            seen.failed.append(f"a stream ended after {count} of {wish.answer} tokens")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(values)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return (
        {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1e3 for name, q in at.items()} if values else {}
    )


async def play(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is to be told of one run."""
    client = Client(url)
    requests = wishes(args, await client.context())
    before, began = await client.gauges(), time.perf_counter()
    await asyncio.gather(*(client.ask(i, wish, began) for i, wish in enumerate(requests)))
    seconds, seen = time.perf_counter() - began, client.seen
    for _ in range(int(SETTLE_SECONDS / LOOK_SECONDS)):
        after = await client.gauges()
        if after == before:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return {
        "requests": len(requests),
        "rate": args.rate,
        "seconds": seconds,
        "statuses": {str(k): v for k, v in sorted(seen.statuses.items())},
        "left": seen.left,
        "failed": len(seen.failed) + sum(n for status, n in seen.statuses.items() if status not in EXPECTED),
        "failures": seen.failed[:5],
        "tokens_per_s": seen.tokens / seconds,
        "ttft_ms": quantiles(seen.first),
        "itl_ms": quantiles(seen.between),
        "tpot_ms": quantiles(seen.mean),
        "e2e_ms": quantiles(seen.whole),
        "client_late_ms": quantiles(seen.late),
        "gauges_before": before,
        "gauges_after": after,
    }


@contextmanager
def server(args: argparse.Namespace) -> Iterator[str]:
    """The URL of a server: the one that is named, or one of its own."""
    if args.url:
        yield args.url
        return
    command = [sys.executable, "-m", "penstock", "serve", "--port", "0", "--quiet", "--no-log-requests"]
    command += ["--model", args.model] if args.model else []
    command += ["--threads", str(args.threads)] if args.threads else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://[\w.]+:\d+", line):
                    yield found[0]
                    break
            else:
                raise SystemExit("the server did not start: " + "".join(said))
        finally:
            process.terminate()
            process.wait(60)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--disconnects", type=float, default=0.1, help="share of clients that leave early")
    parser.add_argument("--shorter", type=int, default=8, help="divides the trace's lengths")
    parser.add_argument("--skip", type=int, default=0, help="rows of the trace to pass over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="default: the embedded model")
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0: all cores")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    with server(args) as url:
        found = asyncio.run(play(url, args))
    print(
        f"{found['requests']} requests at {found['rate']:g} a second in {found['seconds']:.1f} s: "
        f"{found['statuses']}, {found['left']} left, {found['failed']} failed; {found['tokens_per_s']:.0f} tokens/s"
    )
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "client_late_ms"):
        print(f"{name:>15} " + "  ".join(f"{q} {value:9.2f}" for q, value in found[name].items()))
    back = found["gauges_after"] == found["gauges_before"]
    print("gauges: " + ("back at their baseline" if back else f"{found['gauges_before']} → {found['gauges_after']}"))
    for failure in found["failures"]:
        print(f"failed: {failure}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if back and not found["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
