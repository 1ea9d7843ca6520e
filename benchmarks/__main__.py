"""Measure penstock beside the machine's limits and, where installed, transformers; print a table, keep the JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import shapes
from benchmarks.workloads import BATCHES, PREFILL, Engine, measure

RESULTS = Path(__file__).parent / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="llama-3.2-1b")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3, help="engines take turns this often; medians are reported")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--peers", default="transformers", help="comma-separated, empty for none")
    parser.add_argument("--quantization", default="none", help="of penstock, comma-separated: none, int8, int4")
    parser.add_argument("--models", type=Path, default=Path.home() / ".cache" / "penstock-bench")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/<shape>-<dtype>.json)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    config = {**shapes.COMMON, **shapes.SHAPES[args.shape]}
    folder = shapes.make(args.shape, args.models)
    ours = ["penstock" if q == "none" else f"penstock:{q}" for q in args.quantization.split(",")]
    names = [*ours, *(p for p in args.peers.split(",") if p and importlib.util.find_spec(p))]
    engines = [Engine(name, str(folder), args.dtype, args.threads) for name in names]
    probes: list[dict[str, float]] = []
    prefill = min(PREFILL, int(config["max_position_embeddings"]) - 64)
    for engine in engines:
        engine.start()
    for round_ in range(args.rounds):
        probes.append(engines[0].ask({"probe": True}))
        for engine in engines:
            measure(engine, round_, prefill)
    for engine in engines:
        engine.stop()
    limits = {key: max(p[key] for p in probes) for key in probes[0]}
    result = report(args, config, engines, limits)
    out = args.out or RESULTS / f"{args.shape}-{args.dtype}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {out}")


def report(
    args: argparse.Namespace, config: dict[str, Any], engines: list[Engine], limits: dict[str, float]
) -> dict[str, Any]:
    """Print the table and return what is kept."""
    size = shapes.weight_bytes(config) * (2 if args.dtype == "float32" else 1)
    flops = 2 * shapes.body_params(config)
    print(f"\n{args.shape} {args.dtype}, {platform.processor() or platform.machine()}")
    print("machine: " + ", ".join(f"{k} {v:.1f}" for k, v in limits.items()))
    keys = ["ttft_s", *(f"decode_{b}" for b in BATCHES), "prefill", "mixed", "load_s", "peak_mb"]
    print(f"{'':12}" + "".join(f"{e.name:>26}" for e in engines))
    for key in keys:
        line = f"{key:12}"
        for engine in engines:
            value = engine.median(key)
            note = ""
            if value is not None and key == "decode_1":
                note = "" if ":" in engine.name else f"({value * size / 1e9:.1f} GB/s)"
            elif value is not None and key in ("prefill", "decode_32"):
                note = f"({value * flops / 1e9:.0f} GFLOP/s)"
            line += f"{'-' if value is None else f'{value:.2f} {note}':>26}"
        print(line)
    return {
        "shape": args.shape,
        "dtype": args.dtype,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": args.rounds,
        "limits": limits,
        "weight_bytes": size,
        "flops_per_prompt_token": flops,
        "engines": {
            e.name: {k: {"median": e.median(k), "runs": e.runs[k]} for k in keys if k in e.runs} for e in engines
        },
    }


if __name__ == "__main__":
    main()
