"""``penstock version``."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from penstock._version import __version__
from penstock.cli.parser import Parser


def parser() -> Parser:
    return Parser("version", "Show the version of penstock and of the Python that runs it.")


def run(argv: Sequence[str]) -> int:
    parser().read(argv)
    print(f"penstock {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
    return 0
