"""``penstock doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

from penstock.cli.options import environment_names
from penstock.cli.parser import Parser, port_number
from penstock.cli.terminal import style, write

if TYPE_CHECKING:
    from penstock.cli.checks.finding import Finding

EXAMPLES = ("penstock doctor", "penstock doctor --network --json")
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def parser() -> Parser:
    made = Parser("doctor", "Check this machine and this installation. Exit code 1 if something is broken.", EXAMPLES)
    made.switch("network", "also whether the model hubs can be reached (default: off)")
    made.option("port", "port to try for the server (default: 8000)", type=port_number, metavar="PORT", default=8000)
    made.switch("json", "findings as a JSON list")
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    as_json = getattr(args, "json", False)
    found = []
    for finding in findings(args.port, getattr(args, "network", False)):
        found.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        write(json.dumps([asdict(f) for f in found], ensure_ascii=False, indent=1) + "\n")
    return 1 if any(f.level == "fail" for f in found) else 0


def findings(port: int, with_network: bool) -> Iterator[Finding]:
    """Everything, in the order of the report, as it is found."""
    from penstock.cli.checks import installation, machine, places

    checks: list[Iterable[Finding]] = [
        machine.system(), machine.cpu(), machine.cores(), machine.memory(), machine.huge_pages(),
        installation.versions(), installation.libraries(), installation.native(), installation.embedded(),
        installation.environment(frozenset(environment_names())), places.folders(), places.port(port),
    ]  # fmt: skip
    if with_network:
        checks.append(places.network())
    return chain.from_iterable(checks)


def _show(finding: Finding) -> None:
    level = style(f"{finding.level:<4}", COLOURS[finding.level], sys.stdout)
    write(f"{level}  {finding.name:<12}  {finding.text}\n")
    if finding.fix:
        write(f"{'':<20}fix: {finding.fix}\n")
