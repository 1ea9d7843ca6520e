"""Prometheus' text format, for counters that do not end in ``_total`` as ``prometheus_client`` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.server.histogram import Histogram

Described = Mapping[str, tuple[str, str]]
"""(kind, help) by metric."""


def plain(described: Described, models: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Lines of counters and gauges; ``models``: each one's values by metric."""
    for metric, (kind, said) in described.items():
        yield f"# HELP {metric} {said}\n# TYPE {metric} {kind}\n"
        for name, values in models.items():
            yield f"{metric}{{{label(name)}}} {float(values[metric])}\n"


def histogram(metric: str, said: str, models: Mapping[str, Histogram]) -> Iterator[str]:
    """Lines of one histogram of each model."""
    yield f"# HELP {metric} {said}\n# TYPE {metric} histogram\n"
    for name, each in models.items():
        for bound, count in each.buckets():
            yield f'{metric}_bucket{{{label(name)},le="{bound}"}} {count}\n'
        yield f"{metric}_sum{{{label(name)}}} {each.sum}\n"
        yield f"{metric}_count{{{label(name)}}} {float(each.count)}\n"


def label(model: str) -> str:
    escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'model_name="{escaped}"'
