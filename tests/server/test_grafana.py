"""The dashboard in docs/grafana.json shows metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.helpers import REPOSITORY

DASHBOARD = json.loads((REPOSITORY / "docs" / "grafana.json").read_text())
WORD = re.compile(r"\b(?:penstock_|vllm:)\w+")


def labels_by_name(server) -> dict[str, set[str]]:
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_name_and_label_exists(server):
    known = labels_by_name(server)
    expressions = [t["expr"] for p in DASHBOARD["panels"] for t in p["targets"]]
    expressions += [v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    used = set()
    for text in expressions:
        names = WORD.findall(text)
        assert names, text
        for name in names:
            assert name in known, name
            used.add(name)
        for group in re.findall(r"by \(([^)]*)\)", text):
            for label in group.split(","):
                assert all(label.strip() in known[name] for name in names), (label, text)
        for name, label in re.findall(r"(penstock_\w+)\{(\w+)", text):
            assert label in known[name], (name, label)
    assert len(used) > 20


def test_legends_name_labels(server):
    known = labels_by_name(server)
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in set.union(*(known[n] for n in WORD.findall(target["expr"]))), target


def test_panels_stand_side_by_side():
    cells: set[Any] = set()
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24 and panel["title"] and panel["description"]
        mine = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not mine & cells
        cells |= mine
