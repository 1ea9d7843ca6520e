"""Measure penstock and every peer that is installed on the same work, beside what this machine allows.

Engines run in processes of their own and take turns, line by line. Progress goes to stderr, the table to stdout, all
figures as JSON to --out. Quick look: --quick. Only some: --lines decode-1,prefill --engines penstock:int4,llamacpp.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, gguf_files, machine, peers, report
from benchmarks.chart import svg
from benchmarks.contestant import BrokenError, Contestant
from benchmarks.run import Progress, Record, run
from benchmarks.shapes import SHAPES, config_of
from benchmarks.workloads import LINES, QUICK, Sizes

RESULTS = Path(__file__).resolve().parent / "results"
QUICK_LINES = "ttft,decode-1,decode-8,decode-32,prefill"
QUICK_ENGINES = ("penstock:bf16,penstock:int8,penstock:int4,penstock:q4_k_m,llamacpp:q4_k_m,llamacpp:q8_0,vllm:w8a8,"
                 "openvino:int8,transformers")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.2-1b")
    made.add_argument("--lines", default="", help=f"comma-separated, of: {', '.join(LINES)} (default: all)")
    made.add_argument("--engines", default="", help="comma-separated NAME or NAME:FORMAT (default: all): "
                      + "; ".join(f"{n}: {' '.join(peer.formats)}" for n, peer in peers.PEERS.items()))  # fmt: skip
    made.add_argument("--rounds", type=int, default=0, help="turns of each engine in each line (3; quick: 1)")
    made.add_argument("--quick", action="store_true", help="some lines and engines, shorter work, one round")
    made.add_argument("--threads", type=int, default=0, help="of every engine (default: physical cores)")
    made.add_argument("--peer-python", action="append", default=[], metavar="NAME=PYTHON",
                      help="the interpreter that has this peer; also PENSTOCK_BENCH_<NAME>_PYTHON")  # fmt: skip
    made.add_argument("--models", type=Path, help="where checkpoints are made and kept, several GB (default: "
                      "$PENSTOCK_BENCH_MODELS, ~/.cache/penstock-bench)")  # fmt: skip
    made.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/<shape>.json)")
    made.add_argument("--markdown", type=Path, help="write the tables as Markdown here; - prints them")
    made.add_argument("--chart", type=Path, help="write bars as SVG here (default: beside the JSON)")
    made.add_argument("--report", type=Path, help="measure nothing: show this JSON file")
    return made


def main(argv: list[str] | None = None) -> int:
    made = parser()
    args = made.parse_args(argv)
    if args.report is not None:
        show(json.loads(args.report.read_text()), args)
        return 0
    try:
        pairs = peers.chosen(args.engines or (QUICK_ENGINES if args.quick else ""))
        lines = [LINES[name] for name in LINES if name in _lines(args)]
        pythons = _pythons(args.peer_python)
    except ValueError as error:
        made.error(str(error))
    progress = Progress()
    threads = args.threads or machine.default_threads()
    sizes = (QUICK if args.quick else Sizes()).for_config(config_of(args.shape))
    rounds = args.rounds or (1 if args.quick else 3)
    contestants, skipped = enter(args, pairs, pythons, sizes, threads, progress)
    record = Record()
    try:
        run(contestants, lines, rounds, sizes, threads, record, progress)
    except KeyboardInterrupt:
        progress.say("stopped; what was measured so far is kept")
    if not record.runs:
        progress.say("nothing was measured")
        return 1
    skipped += [f"{one.name} stopped: {one.broken}" for one in contestants if one.broken]
    result = collect(args.shape, contestants, skipped, record, sizes, rounds, threads)
    out = args.out or RESULTS / f"{args.shape}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps(result, indent=None, separators=(",", ":")).replace('},{"engine"', '},\n{"engine"') + "\n"
    )
    args.chart = args.chart or out.with_suffix(".svg")
    show(result, args)
    progress.say(f"written to {out}")
    return 0


def enter(
    args: argparse.Namespace, pairs: list[tuple[str, str]], pythons: dict[str, str], sizes: Sizes, threads: int,
    progress: Progress,
) -> tuple[list[Contestant], list[str]]:  # fmt: skip
    """Those of ``pairs`` whose engine is installed, their checkpoints made; and why the others are not there."""
    models = args.models or Path(os.environ.get("PENSTOCK_BENCH_MODELS", Path.home() / ".cache" / "penstock-bench"))
    skipped: list[str] = []
    installed: dict[str, str] = {}
    for engine in dict.fromkeys(engine for engine, _ in pairs):
        python = peers.interpreter(engine, pythons)
        reason = peers.absent(engine, python)
        if reason is None:
            installed[engine] = python
        else:
            skipped.append(reason)
            progress.say(f"skipped: {reason}")
    llama = peers.interpreter("llamacpp", pythons)
    llama_python = llama if peers.absent("llamacpp", llama) is None else None
    contestants = []
    for engine, fmt in pairs:
        if engine not in installed:
            continue
        scheme = peers.PEERS[engine].formats[fmt].scheme
        progress.say(f"checkpoint of {args.shape} for {engine}:{fmt} ({scheme})")
        log = models / "logs" / f"{args.shape}-{engine}-{fmt}.log"
        try:
            path, size = _checkpoint(args.shape, scheme, models, llama_python, threads)
            one = Contestant(engine, fmt, installed[engine], path, log, sizes, threads, weight_bytes=size)
            one.prepare()
        except (checkpoints.NotPossibleError, BrokenError) as error:
            skipped.append(f"{engine}:{fmt} left out: {error}")
            progress.say(f"skipped: {skipped[-1]}")
            continue
        contestants.append(one)
    return contestants, skipped


def _checkpoint(shape: str, scheme: str, models: Path, llama_python: str | None, threads: int) -> tuple[Path, int]:
    """Where it is, and the bytes of it that a step reads."""
    kind, _, fmt = scheme.partition(":")
    if kind == "gguf":
        file = gguf_files.make_gguf(shape, fmt, models, llama_python, threads)
        return file, gguf_files.weight_bytes(file)
    folder = checkpoints.make(shape, scheme, models)
    return folder, checkpoints.weight_bytes(folder, config_of(shape))


def collect(
    shape: str, contestants: list[Contestant], skipped: list[str], record: Record, sizes: Sizes, rounds: int,
    threads: int,
) -> dict[str, Any]:  # fmt: skip
    """All that is kept of a run."""
    from penstock import __version__

    engines = {
        one.name: {"version": one.version, "bits": one.format.bits, "peak": one.format.peak,
                   "weight_bytes": one.weight_bytes}
        for one in contestants if one.version
    }  # fmt: skip
    probes = [{name: round(value, 2) for name, value in probe.items()} for probe in record.probes]
    return {
        "schema": 1, "shape": shape, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "penstock": __version__,
        "machine": machine.facts(threads), "rounds": rounds, "sizes": asdict(sizes), "engines": engines,
        "skipped": skipped, "probes": probes, "runs": record.runs,
    }  # fmt: skip


def show(result: dict[str, Any], args: argparse.Namespace) -> None:
    """The table, and the files that were asked for."""
    if args.markdown is not None and str(args.markdown) == "-":
        print(report.markdown(result))
    else:
        print(report.table(result))
        if args.markdown is not None:
            args.markdown.write_text(report.markdown(result))
    if args.chart is not None:
        args.chart.write_text(svg(result))


def _lines(args: argparse.Namespace) -> list[str]:
    wanted = [word.strip() for word in (args.lines or (QUICK_LINES if args.quick else ",".join(LINES))).split(",")]
    for word in wanted:
        if word not in LINES:
            raise ValueError(f"no line '{word}'; there are {', '.join(LINES)}")
    return wanted


def _pythons(given: list[str]) -> dict[str, str]:
    found = dict(text.partition("=")[::2] for text in given)
    for engine, python in found.items():
        if engine not in peers.PEERS or not python:
            raise ValueError(f"--peer-python {engine}={python}: write NAME=PYTHON, NAME of {', '.join(peers.PEERS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
