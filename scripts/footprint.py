"""Print what the core install of penstock puts on disk, by distribution, in megabytes (10^6 bytes).

Follows the requirements of the installed ``penstock`` without extras, so it may be run in any environment that has
them. Counted are the files that each distribution recorded: ``files`` as they lie in the wheel, ``bytecode`` what pip
compiles from them. Blocks of the file system round every file up; expect ``du`` to say some 7 % more.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SOURCE = Path(__file__).resolve().parent.parent / "src" / "penstock"


def closure(name: str) -> list[importlib.metadata.Distribution]:
    """The distribution and all that it requires on this machine, without extras that nobody asks for."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [Requirement(name)]
    while wanted:
        requirement = wanted.pop()
        key = f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}"
        if key in found:
            continue
        found[key] = importlib.metadata.distribution(requirement.name)
        for line in found[key].requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                wanted.append(needed)
    return list({dist.metadata["Name"]: dist for dist in found.values()}.values())


def sizes(dist: importlib.metadata.Distribution) -> tuple[int, int]:
    """(bytes of the wheel's files, bytes of compiled Python) of one distribution."""
    paths = [Path(str(dist.locate_file(file))) for file in dist.files or []]
    if canonicalize_name(dist.metadata["Name"]) == "penstock" and not any(p.suffix == ".so" for p in paths):
        paths = list(SOURCE.rglob("*"))  # a developer's install records no more than a pointer to the sources
    plain = compiled = 0
    for path in paths:
        if path.is_file():
            plain += 0 if path.suffix == ".pyc" else path.stat().st_size
            compiled += path.stat().st_size if path.suffix == ".pyc" else 0
    return plain, compiled


def footprint() -> dict[str, tuple[int, int]]:
    """{distribution: (files, bytecode)} in bytes, largest first."""
    table = {dist.metadata["Name"]: sizes(dist) for dist in closure("penstock")}
    return dict(sorted(table.items(), key=lambda item: -sum(item[1])))


def main() -> None:
    table = footprint()
    print(f"{'MB':<24}{'files':>9}{'bytecode':>10}{'together':>10}")
    for name, (plain, compiled) in table.items():
        print(f"{name:<24}{plain / 1e6:>9.2f}{compiled / 1e6:>10.2f}{(plain + compiled) / 1e6:>10.2f}")
    plain, compiled = (sum(column) for column in zip(*table.values(), strict=True))
    print(f"{'all':<24}{plain / 1e6:>9.2f}{compiled / 1e6:>10.2f}{(plain + compiled) / 1e6:>10.2f}")


if __name__ == "__main__":
    main()
