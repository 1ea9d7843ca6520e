"""How much memory this process may take: what the machine has free, and what its cgroup allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Of a cgroup: what it allows and what it uses, version 2 and 1."""


def available_memory() -> int:
    """Bytes that can still be taken without swapping; the least of the machine's and every cgroup limit's."""
    room = [_meminfo()]
    for folder in dict.fromkeys(_folders()):
        for limit, usage in LIMITS:
            allowed, used = _number(folder / limit), _number(folder / usage)
            if allowed is not None and used is not None:
                room.append(max(0, allowed - used + _forgettable(folder)))
    return min(room)


def _folders() -> Iterator[Path]:
    """This process's cgroups that know memory, each up to its root; within a container often the root alone."""
    roots = (CGROUPS, CGROUPS / "memory", CGROUPS / "unified")
    yield from roots
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:  # id:controllers:path
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if not controllers or "memory" in controllers.split(","):
            for count in range(len(parts), 0, -1):
                yield from (root.joinpath(*parts[:count]) for root in roots)


def human_bytes(count: float) -> str:
    """``1.5 GiB``, three significant digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 4 << 30


def _forgettable(folder: Path) -> int:
    """Bytes of files in the page cache that nobody has touched for a while: counted as used, and given back at need."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
