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


def _mark(done: set[str]) -> str:
    """✓ for all features, else those that passed."""
    named = [title for test, title in FEATURES if test in done]
    return "✓" if len(named) == len(FEATURES) else ", ".join(named)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Not in a worker of pytest-xdist, which saw a part."""
    if TABLE and passed and not hasattr(session.config, "workerinput"):
        path = Path(TABLE)
        head = path.read_text().split("<!-- table -->")[0]
        forms = list(dict.fromkeys(form for _, form in passed))
        lines = ["| family | " + " | ".join(forms) + " |", "|---" * (len(forms) + 1) + "|"]
        for family in dict.fromkeys(family for family, _ in passed):
            marks = " | ".join(_mark(passed.get((family, form), set())) for form in forms)
            lines.append(f"| {family} | {marks} |")
        path.write_text(head + "<!-- table -->\n\n" + "\n".join(lines) + "\n")
