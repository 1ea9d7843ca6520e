"""Python's share of a step: an engine and a frontend around an executor that computes nothing.

    python -m benchmarks.overhead            microseconds a step at 1, 8 and 32 streams, least of many
    python -m benchmarks.overhead --profile  where they go

What is timed is ``Frontend.step``: planning, building the batch, accounting and outputs of ``n`` streams that decode,
all but text. The least of many steps is taken, since other processes interrupt the rest.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import numpy as np

from penstock.config import SchedulerConfig
from penstock.engine.admission import ModelFacts
from penstock.engine.engine import Engine
from penstock.executors.base import Adapter, ExecutorInfo, Held, Hook, Limits, Memory, WeightStream
from penstock.frontend import Frontend, Prompt
from penstock.models.program import Program
from penstock.types import F32, I64, Batch, RequestOutputKind, SamplingParams, StepOutput

STEPS = 1500


class NullExecutor:
    """Token 7 for everybody, at once."""

    program = Program("null", (), {}, {}, (), {})
    limits = Limits(8192, 256, 4096, 1 << 20, 4096, 16, "f32")
    info = ExecutorInfo("null", "none", 1, "none", {})
    memory = Memory(0, 0, 0, 0)
    takes_words = False

    def run(self, batch: Batch) -> StepOutput:
        n = 0 if batch.sampling is None else batch.sampling.row.shape[0]
        return StepOutput(np.full(n, 7, np.int32), np.zeros(n, np.uint8))

    def trace(self, batch: Batch, hook: Hook) -> StepOutput:
        return self.run(batch)

    def load(self, weights: WeightStream) -> None: ...

    def close(self) -> None: ...

    def load_adapter(self, slot: int, tensors: Adapter) -> None: ...

    def unload_adapter(self, slot: int) -> None: ...

    def write_kv(self, layer: int, slots: I64, k: F32, v: F32) -> None: ...

    def held(self, weight: str) -> Held:
        raise NotImplementedError


def streams(n: int, kind: RequestOutputKind = RequestOutputKind.DELTA) -> Frontend:
    """A frontend with ``n`` requests that have begun to decode."""
    facts = ModelFacts(vocab_size=1000, max_model_len=4096, eos_ids=frozenset({2}))
    frontend = Frontend(Engine(NullExecutor(), facts, SchedulerConfig()), None)
    params = SamplingParams(max_tokens=2000, temperature=0.8, ignore_eos=True, output_kind=kind)
    for i in range(n):
        frontend.add(str(i), Prompt([i + 3] * 64), params)
    for _ in range(4):
        frontend.step()
    return frontend


def least(n: int, kind: RequestOutputKind) -> float:
    """Seconds of the fastest step."""
    frontend, best = streams(n, kind), 1e9
    for _ in range(STEPS):
        start = time.perf_counter()
        frontend.step()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="where the time of 32 streams goes")
    if parser.parse_args().profile:
        frontend = streams(32)
        with cProfile.Profile() as profile:
            for _ in range(STEPS):
                frontend.step()
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
        return
    for n in (1, 8, 32):
        shown, silent = (least(n, kind) * 1e6 for kind in (RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY))
        print(f"{n:3d} streams: {silent:.0f} us a step, {shown:.0f} where every token is given out")


if __name__ == "__main__":
    main()
