"""Bars as SVG, written by hand: one panel a line of the table, one bar an engine, penstock's in colour."""

from __future__ import annotations

from html import escape

from benchmarks.peers import OURS
from benchmarks.report import Result, Row, figure, head, rows
from benchmarks.workloads import LINES

WIDTH, LEFT, RIGHT = 760, 210, 120
BAR, GAP, TITLE = 15, 4, 30
COLOURS = {
    OURS: "#0b7a75", "llamacpp": "#9a9a9a", "vllm": "#b5a27e", "openvino": "#8fa3bf", "transformers": "#c4a6b6",
}  # fmt: skip


def svg(result: Result) -> str:
    """A picture that stands alone; the best is on top of each panel."""
    found = rows(result)
    parts: list[str] = []
    y = 16.0
    for text in head(result):
        parts.append(_text(12, y, text, size=11))
        y += 15
    for line in LINES.values():
        panel = sorted((row for row in found if row.line == line.name), key=lambda row: row.value)
        if not panel:
            continue
        if line.more_is_better:
            panel.reverse()
        better = "" if line.more_is_better else ", less is better"
        y += TITLE
        parts.append(_text(12, y - 8, f"{line.title} ({line.unit}{better})", size=13, weight="bold"))
        longest = max(row.value for row in panel)
        for row in panel:
            parts += _bar(row, y, longest)
            y += BAR + GAP
    height = int(y + 12)
    body = "\n".join(parts)
    size = f'width="{WIDTH}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size} '
        f'font-family="system-ui, sans-serif">\n<rect {size} fill="white"/>\n{body}\n</svg>\n'
    )


def _bar(row: Row, y: float, longest: float) -> list[str]:
    engine = row.engine.partition(":")[0]
    width = max(1.0, (WIDTH - LEFT - RIGHT) * row.value / longest) if longest > 0 else 1.0
    limit = f" ({100 * row.share:.0f} % of {row.bound})" if row.share is not None and row.bound != "weights" else ""
    return [
        _text(LEFT - 8, y + BAR - 4, row.engine, size=11, anchor="end"),
        f'<rect x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" fill="{COLOURS.get(engine, "#bbbbbb")}"/>',
        _text(LEFT + width + 5, y + BAR - 4, figure(row.value) + limit, size=11),
    ]


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#222">{escape(text)}</text>'
    )
