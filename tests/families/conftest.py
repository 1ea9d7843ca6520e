"""Keeps what passed of `test_matrix.py`, and writes the table where MODELS_TABLE names a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FEATURES = (
    ("greedy_tokens", "tokens"), ("chunked_prefill", "chunks"), ("batches", "batches"),
    ("prefix_cache", "prefix cache"), ("several_answers", "n"), ("dynamic_mode", "dynamic"), ("lora", "LoRA"),
    ("p_tuning", "P-Tuning"),
)  # fmt: skip
passed: dict[tuple[str, str], set[str]] = {}
TABLE = os.environ.get("MODELS_TABLE")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    case = dict(report.user_properties).get("case")
    if report.when == "call" and isinstance(case, tuple):
        done = passed.setdefault(case, set())
        if report.outcome == "passed":
            done.add(report.location[2].split("[")[0].removeprefix("test_"))


def pytest_sessionfinish() -> None:
    if TABLE and passed:
        path = Path(TABLE)
        head = path.read_text().split("<!-- table -->")[0]
        lines = [
            "| family | weights | " + " | ".join(f for _, f in FEATURES) + " |",
            "|---" * (len(FEATURES) + 2) + "|",
        ]
        for (family, form), done in passed.items():
            marks = " | ".join("✓" if test in done else "" for test, _ in FEATURES)
            lines.append(f"| {family} | {form} | {marks} |")
        path.write_text(head + "<!-- table -->\n\n" + "\n".join(lines) + "\n")
