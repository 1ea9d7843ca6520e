"""How much memory this process may take: what the machine has free, and what its cgroup allows."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int:
    """Bytes that can still be taken without swapping; the least of the machine's and every cgroup limit's."""
    room = [_meminfo()]
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        allowed, used = _number(limit), _number(usage)
        if allowed is not None and used is not None:
            room.append(max(0, allowed - used))
    return min(room)


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


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
