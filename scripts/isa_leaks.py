"""Fail where code of one instruction set could be run on a machine without it.

An inline function that is compiled into objects of different instruction sets exists once in the linked module, and
the linker may keep any copy. So no weak symbol of a ``*_avx2.cpp``, ``*_avx512.cpp`` or ``*_amx.cpp`` object may also
be defined in an object of another kind. Argument: the build folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path


def kind(name: str) -> str:
    """The instruction set that an object file's name stands for; plain for all that run anywhere."""
    return next((isa for isa in ("amx", "avx512", "avx2") if name.endswith(f"_{isa}.cpp.o")), "plain")


def leaks(symbols: dict[str, list[str]]) -> dict[str, list[str]]:
    """Weak symbols defined in objects of several kinds, with those objects, from {object: its weak symbols}."""
    objects = defaultdict(list)
    for path, names in symbols.items():
        for name in names:
            objects[name].append(path)
    return {name: paths for name, paths in objects.items() if len({kind(path) for path in paths}) > 1}


def weak_symbols(path: Path) -> list[str]:
    """Defined weak functions of an object file, demangled."""
    output = subprocess.run(["nm", "-C", "--defined-only", str(path)], capture_output=True, text=True, check=True)
    fields = (line.split(maxsplit=2) for line in output.stdout.splitlines())
    return [field[2] for field in fields if len(field) == 3 and field[1] == "W"]


def main(folder: str) -> int:
    objects = [path for path in Path(folder).rglob("*.cpp.o") if "nanobind" not in str(path)]
    found = leaks({str(path): weak_symbols(path) for path in objects})
    for name, paths in sorted(found.items()):
        print(
            f"{name}: also in {', '.join(Path(path).name for path in paths)}; template it on the ISA or make it static"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
