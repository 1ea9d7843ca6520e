"""One line of a doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``fix`` says what to do; every ``warn`` and ``fail`` has one."""

    level: Level
    name: str
    text: str
    fix: str = ""


def ok(name: str, text: str) -> Finding:
    return Finding("ok", name, text)


def warn(name: str, text: str, fix: str) -> Finding:
    return Finding("warn", name, text, fix)


def fail(name: str, text: str, fix: str) -> Finding:
    return Finding("fail", name, text, fix)
