"""From what was measured to what is read: rows with rates, shares of the limits and ratios; a table, Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import OURS
from benchmarks.shapes import config_of
from benchmarks.workloads import LINES, Line, Sizes, load

Result = dict[str, Any]
NOISY = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One engine in one line: medians over the rounds.

    ``share`` of the limit that binds (``bound``: read, or the arithmetic), taken beside each run; for memory, weights
    as a share of the peak. ``same``/``best``: times better than the best peer with weights as wide, and than the best
    of all; above 1 is better for times and memory too. ``others``: the largest share of the machine that others used.
    """

    line: str
    engine: str
    value: float
    low: float
    high: float
    gbs: float | None
    gflops: float | None
    share: float | None
    bound: str
    same: float | None
    best: float | None
    others: float


def rows(result: Result) -> list[Row]:
    """In the order of the lines, then of the engines."""
    values: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for run in result["runs"]:
        values.setdefault((run["line"], run["engine"]), {})[run["round"]] = run
    found = []
    for line in LINES.values():
        for engine in result["engines"]:
            runs = values.get((line.name, engine))
            if runs:
                found.append(_row(result, line, engine, runs, values))
    return found


def _row(
    result: Result, line: Line, engine: str, runs: dict[int, dict[str, Any]],
    values: dict[tuple[str, str], dict[int, dict[str, Any]]],
) -> Row:  # fmt: skip
    info = result["engines"][engine]
    figures = [run["value"] for run in runs.values()]
    value = statistics.median(figures)
    need = load(line, config_of(result["shape"]), info["weight_bytes"], Sizes(**result["sizes"]))
    gbs = gflops = share = None
    bound = ""
    if need is not None:
        rate = value if line.more_is_better else 1 / value
        gbs, gflops = 1e-9 * need.bytes * rate, 1e-9 * need.flops * rate
        shares = []
        for run in runs.values():
            probe = result["probes"][run["probe"]]
            peak = probe.get(info["peak"]) or probe["f32_gflops"]
            reading, computing = 1e-9 * need.bytes / probe["read_gbs"], 1e-9 * need.flops / peak
            bound = "read" if reading > computing else info["peak"].partition("_")[0]
            one = run["value"] if line.more_is_better else 1 / run["value"]
            shares.append(max(reading, computing) * one)
        share = statistics.median(shares)
    elif line.kind == "memory" and info["weight_bytes"]:
        share, bound = info["weight_bytes"] / 1e6 / value, "weights"
    same = best = None
    if engine.startswith(OURS):
        peers = {e: values[line.name, e] for e in result["engines"]
                 if not e.startswith(OURS) and (line.name, e) in values}  # fmt: skip
        alike = {e: r for e, r in peers.items() if result["engines"][e]["bits"] == info["bits"]}
        same, best = _ratio(line, runs, alike), _ratio(line, runs, peers)
    others = max(run["others"] for run in runs.values())
    return Row(line.name, engine, value, min(figures), max(figures), gbs, gflops, share, bound, same, best, others)


def _ratio(line: Line, runs: dict[int, dict[str, Any]], peers: dict[str, dict[int, dict[str, Any]]]) -> float | None:
    """How many times better than the best of ``peers``: round by round where both have it, else by medians."""
    if not peers:
        return None
    pick = max if line.more_is_better else min
    rival = peers[pick(peers, key=lambda e: _middle(peers[e]))]
    both = [turn for turn in runs if turn in rival]
    ratios = [runs[turn]["value"] / rival[turn]["value"] for turn in both]
    ratio = statistics.median(ratios) if ratios else _middle(runs) / _middle(rival)
    return ratio if line.more_is_better else 1 / ratio


def _middle(runs: dict[int, dict[str, Any]]) -> float:
    return statistics.median(run["value"] for run in runs.values())


def limits(result: Result) -> dict[str, tuple[float, float]]:
    """The smallest and the largest of each probe of the run."""
    names = result["probes"][0] if result["probes"] else {}
    return {name: (min(p[name] for p in result["probes"]), max(p[name] for p in result["probes"])) for name in names}


def head(result: Result) -> list[str]:
    """The machine and its limits, in words."""
    facts = result["machine"]
    words = {"read_gbs": "read {} GB/s", "read_usual_gbs": "{} in the middle of a probe's runs",
             "read_plain_gbs": "{} with plain pages", "f32_gflops": "f32 {} GFLOP/s",
             "bf16_gflops": "bf16 {}", "int8_gops": "int8 {} Gop/s"}  # fmt: skip
    found = limits(result)
    probed = ", ".join(
        text.format(f"{found[name][0]:.0f}-{found[name][1]:.0f}") for name, text in words.items() if name in found
    )
    return [
        f"{result['shape']}, penstock {result['penstock']}, {result['date']}, {result['rounds']} rounds",
        f"{facts['cpu']}, {facts['threads']} threads of {facts['cpus']} CPUs ({' '.join(facts['flags'])}), "
        f"{facts['memory_gb']} GB, huge pages {facts['huge_pages'] or 'unknown'}",
        f"limits measured over the run: {probed}",
    ]


def table(result: Result) -> str:
    """What the terminal shows: one block a line."""
    out = [*head(result), ""]
    last = ""
    for row in rows(result):
        line = LINES[row.line]
        if row.line != last:
            last = row.line
            out.append(f"{line.title + ', ' + line.unit:<40}{'low':>9}{'high':>9}{'GB/s':>7}{'GFLOP/s':>9}"
                       f"{'of limit':>16}{'x same bits':>13}{'x best':>8}")  # fmt: skip
        limit = f"{100 * row.share:.0f}% {row.bound}" if row.share is not None else "-"
        out.append(
            f"  {row.engine:<28}{figure(row.value):>10}{figure(row.low):>9}{figure(row.high):>9}"
            f"{_number(row.gbs):>7}{_number(row.gflops):>9}{limit:>16}"
            f"{_number(row.same):>13}{_number(row.best):>8}"
            f"{f'  others {100 * row.others:.0f}%' if row.others > NOISY else ''}"
        )
    out += ["", *(f"skipped: {text}" for text in result["skipped"])]
    return "\n".join(out).rstrip()


def markdown(result: Result) -> str:
    """Two tables: all engines by line, and penstock's formats beside the machine and the best peer."""
    found = rows(result)
    engines = [e for e in result["engines"] if any(row.engine == e for row in found)]
    lines = [line for line in LINES.values() if any(row.line == line.name for row in found)]
    cells = {(row.line, row.engine): row for row in found}
    out = [f"### {result['shape']}", "", *(f"{text}  " for text in head(result)), ""]
    out += [_cells(["", *engines]), _cells(["---"] * (len(engines) + 1))]
    for line in lines:
        shown = [cells.get((line.name, engine)) for engine in engines]
        out.append(_cells([f"{line.title}, {line.unit}", *(figure(row.value) if row else "–" for row in shown)]))
    out += ["", _cells(["line", "penstock", "value", "GB/s", "GFLOP/s", "of the limit", "× best peer, same bits",
                        "× best peer"]), _cells(["---"] * 8)]  # fmt: skip
    for row in found:
        if row.engine.startswith(OURS):
            limit = f"{100 * row.share:.0f} % ({row.bound})" if row.share is not None else "–"
            out.append(_cells([LINES[row.line].title, row.engine.partition(":")[2], figure(row.value),
                               _number(row.gbs, "–"), _number(row.gflops, "–"), limit,
                               _number(row.same, "–"), _number(row.best, "–")]))  # fmt: skip
    noisy = sorted({row.engine for row in found if row.others > NOISY})
    if noisy:
        out += [
            "",
            f"Other processes used more than {100 * NOISY:.0f} % of the machine during runs of: {', '.join(noisy)}.",
        ]
    out += ["", *(f"* {text}" for text in result["skipped"])]
    return "\n".join(out).rstrip() + "\n"


def figure(value: float) -> str:
    """Three figures, no exponent."""
    digits = next((d for d, least in enumerate((100, 10, 1)) if abs(value) >= least), 3)
    return f"{value:.{digits}f}"


def _number(value: float | None, absent: str = "-") -> str:
    return absent if value is None else figure(value)


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"
