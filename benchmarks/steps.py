"""Decode step by step: what a step of N streams takes, which no prompt and no start-up is part of.

    python -m benchmarks.steps MODEL [--quantization int8] [--streams 1,4,8,16,32] [--bus TURNS] [--out FILE]

Where neighbours take turns on a machine, the difference of two runs (`benchmarks.cpu`, which peers need) wanders more
than what is measured; here the middle step is told and the one that a tenth of them are faster than, and prefills.
``--bus`` has one stream take turns with plain reads, so many times, and tells what share of the bus a step has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

from penstock import LLM, SamplingParams, _native
from penstock.types import Batch, StepOutput

PROMPT, STEPS, LONG, TURNS = 64, 40, 2048, 3
PROBE = 0.3
"""Seconds of each probe."""


def _prompt(length: int, seed: int) -> list[int]:
    return [5 + seed + j % 50 for j in range(length)]


def decode(llm: LLM, streams: int) -> list[float]:
    """Seconds from the end of one step to that of the next, where all ``streams`` decode."""
    executor = llm.model.engine.executor
    run, ends = executor.run, list[float]()

    def timed(batch: Batch) -> StepOutput:
        output = run(batch)
        if batch.num_tokens == batch.num_seqs == streams:
            ends.append(time.perf_counter())
        return output

    params = [SamplingParams(temperature=0.0, max_tokens=STEPS, ignore_eos=True)] * streams
    executor.run = timed  # type: ignore[method-assign]
    try:
        llm.generate(prompt_token_ids=[_prompt(PROMPT, i) for i in range(streams)], sampling_params=params)
    finally:
        executor.run = run  # type: ignore[method-assign]
    return [after - before for before, after in itertools.pairwise(ends)]


def prefill(llm: LLM) -> float:
    """Tokens a second of one long prompt."""
    start = time.perf_counter()
    llm.generate(prompt_token_ids=[_prompt(LONG, 0)], sampling_params=[SamplingParams(temperature=0.0, max_tokens=1)])
    return LONG / (time.perf_counter() - start)


def bus(llm: LLM, turns: int) -> dict[str, float]:
    """One stream beside plain reads: GB/s of the middle and of the fastest step of each turn, as shares of the middle
    and of the fastest of the reads just before and after; medians over the turns."""
    executor = llm.model.engine.executor
    read = [name for name, weight in executor.program.weights.items() if weight.kind != "table"]
    nbytes = 1e-9 * sum(executor.held(name).nbytes for name in read)
    found: dict[str, list[float]] = {"gbs": [], "bus": [], "share": [], "share_best": []}
    before = _native.probe(0, PROBE)
    for _ in range(turns):
        took = decode(llm, 1)
        after = _native.probe(0, PROBE)
        usual = (before["read_usual_gbs"] + after["read_usual_gbs"]) / 2
        best = max(before["read_gbs"], after["read_gbs"])
        found["gbs"].append(nbytes / statistics.median(took))
        found["bus"].append(usual)
        found["share"].append(nbytes / statistics.median(took) / usual)
        found["share_best"].append(nbytes / min(took) / best)
        before = after
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--quantization", choices=("int8", "int4"))
    parser.add_argument("--streams", default="1,4,8,16,32")
    parser.add_argument("--bus", type=int, metavar="TURNS", help="the share of the bus instead of the rates")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    llm = LLM(
        given.model, quantization=given.quantization, max_model_len=2 * LONG, skip_tokenizer_init=True,
        enable_prefix_caching=False, kv_cache_memory=4 << 30,
    )  # fmt: skip
    if given.bus:
        share = bus(llm, given.bus)
        print(
            f"{share['gbs']:.1f} GB/s of {share['bus']:.1f} that plain reads get: {share['share']:.1%}; "
            f"at best {share['share_best']:.1%} of their best"
        )
        return
    rates: dict[str, tuple[float, float]] = {}
    for streams in map(int, given.streams.split(",")):
        took = decode(llm, streams)
        rates[f"decode-{streams}"] = streams / statistics.median(took), streams / statistics.quantiles(took, n=10)[0]
    found = [prefill(llm) for _ in range(TURNS)]
    rates["prefill"] = statistics.median(found), max(found)
    for name, (middle, best) in rates.items():
        print(f"{name:10s} {middle:8.1f} tok/s, {best:8.1f} at best", flush=True)
    if given.out:
        given.out.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
