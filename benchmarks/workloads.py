"""What is measured, by token id, greedy, EOS ignored: the lines of the table, and what each costs at least."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.shapes import Config, context_of, flops_per_token, read_share

Requests = list[tuple[list[int], int]]
Ask = Callable[[Requests], dict[str, Any]]
"""Runs requests at once; ``seconds``, ``tokens``, ``peak_mb``."""

FIRST_PROMPT = 128
BATCH_PROMPT = 64
LONGEST_MIXED = 256 + 192


@dataclass(frozen=True, slots=True)
class Line:
    """``kind`` says how it is measured; ``streams`` requests at once."""

    name: str
    title: str
    unit: Literal["s", "MB", "tok/s"]
    kind: Literal["start", "memory", "ttft", "decode", "prefill", "mixed"]
    streams: int = 1

    @property
    def more_is_better(self) -> bool:
        return self.unit == "tok/s"


LINES = {
    line.name: line
    for line in (
        Line("start", "process start to first token (128 in)", "s", "start"),
        Line("memory", "peak memory after 128 in, 128 out", "MB", "memory"),
        Line("ttft", "time to first token, 128 in", "s", "ttft"),
        *(Line(f"decode-{n}", f"decode, {n} stream{'s' if n > 1 else ''}", "tok/s", "decode", n)
          for n in (1, 4, 8, 16, 32)),
        Line("prefill", "prefill of one long prompt", "tok/s", "prefill"),
        Line("mixed", "mixed load, 32 requests, generated", "tok/s", "mixed", 32),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a measurement is: decode steps, tokens of the long prompt, requests of the mixed load."""

    steps: int = 32
    prefill: int = 2048
    mixed: int = 32

    def for_config(self, config: Config) -> Sizes:
        """No prompt longer than the shape allows."""
        return Sizes(self.steps, min(self.prefill, context_of(config) - 24), self.mixed)

    @property
    def context(self) -> int:
        """Tokens of the longest request."""
        longest = max(self.prefill + 1, LONGEST_MIXED, FIRST_PROMPT + 4 * self.steps + 1)
        return -(-longest // 32) * 32


QUICK = Sizes(steps=16, prefill=512, mixed=8)


def ids(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(300, 3999) for _ in range(count)]


def mixed(seed: int, count: int) -> Requests:
    """Prompts of 32 to 256 tokens, answers of 64 to 192; the same lengths in every round, other tokens."""
    lengths = random.Random(3000)
    sizes = [(lengths.randint(32, 256), lengths.randint(64, 192)) for _ in range(count)]
    return [(ids(p, 31000 + 100 * seed + i), n) for i, (p, n) in enumerate(sizes)]


def measure(line: Line, ask: Ask, turn: int, sizes: Sizes) -> float | None:
    """One figure of ``line`` in its unit. Rates of decode are differences of two runs, so that the prompt does not
    count; None where the longer one was not slower, on a machine that others use. ``turn`` changes the tokens, so that
    no cache of prefixes helps. Not for ``start``."""
    if line.kind == "memory":
        return float(ask([(ids(FIRST_PROMPT, 70 + turn), FIRST_PROMPT)])["peak_mb"])
    if line.kind == "ttft":
        return _seconds(ask, [(ids(FIRST_PROMPT, 50 + turn), 1)])
    if line.kind == "prefill":
        return sizes.prefill / _seconds(ask, [(ids(sizes.prefill, 2000 + turn), 1)])
    if line.kind == "mixed":
        requests = mixed(turn, sizes.mixed)
        return sum(n for _, n in requests) / _seconds(ask, requests)
    prompt, steps = (FIRST_PROMPT, 2 * sizes.steps) if line.streams == 1 else (BATCH_PROMPT, sizes.steps)
    seeds = [5000 + 1000 * turn + 64 * line.streams + i for i in range(line.streams)]
    before = _seconds(ask, [(ids(prompt, seed), 1) for seed in seeds])
    after = _seconds(ask, [(ids(prompt, 50_000 + seed), steps + 1) for seed in seeds])
    return line.streams * steps / (after - before) if after > before else None


def _seconds(ask: Ask, requests: Requests) -> float:
    reply = ask(requests)
    wanted = sum(n for _, n in requests)
    if reply["tokens"] != wanted:
        raise RuntimeError(f"{reply['tokens']} tokens came where {wanted} were asked")
    return float(reply["seconds"])


@dataclass(frozen=True, slots=True)
class Load:
    """What one token (of a rate), or the whole (of a time), needs: bytes of weights, operations."""

    bytes: float
    flops: float


def load(line: Line, config: Config, weights: int, sizes: Sizes) -> Load | None:
    """The least that ``line`` moves and computes; weights only, neither cache nor attention. None for ``start`` and
    ``memory``."""
    body, whole = flops_per_token(config, head=False), flops_per_token(config, head=True)
    if line.kind == "decode":
        return Load(weights * read_share(config, line.streams) / line.streams, whole)
    if line.kind == "ttft":
        return Load(weights * read_share(config, FIRST_PROMPT), FIRST_PROMPT * body + whole - body)
    if line.kind == "prefill":
        return Load(weights * read_share(config, sizes.prefill) / sizes.prefill, body)
    if line.kind == "mixed":
        requests = mixed(0, sizes.mixed)
        made = sum(n for _, n in requests)
        return Load(0.0, whole + body * sum(len(p) - 1 for p, _ in requests) / made)
    return None
