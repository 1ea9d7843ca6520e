"""The machine: operating system, CPU, cores that may be used, memory, huge pages."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from penstock.cli.checks.finding import Finding, ok, warn
from penstock.memory import available_memory, human_bytes

CPUINFO = Path("/proc/cpuinfo")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
GIB = 1 << 30
SHOWN_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16",
               "amx_int8")  # fmt: skip


def system() -> Iterator[Finding]:
    release = platform.release()
    text = f"{platform.system()} {release}, {platform.machine()}"
    if platform.system() != "Linux":
        yield warn("system", text, "penstock is made for Linux; on Windows use WSL 2, on macOS a container")
    elif "microsoft" in release.lower() and "wsl2" not in release.lower():
        yield warn("system", f"{text}, WSL 1", "convert to WSL 2, which is much faster: wsl --set-version NAME 2")
    else:
        yield ok("system", text)


def cpu(text: str | None = None) -> Iterator[Finding]:
    """``text`` stands for /proc/cpuinfo."""
    model, flags = _cpuinfo(_read(CPUINFO) if text is None else text)
    has = [flag for flag in SHOWN_FLAGS if flag in flags]
    if platform.machine() not in ("x86_64", "AMD64"):
        yield warn("CPU", f"{model or platform.machine()}: generic kernels only", "they work but are slow")
    elif "avx2" not in flags or "fma" not in flags:
        yield warn("CPU", f"{model}: no AVX2 with FMA, so generic kernels",
                   "use a CPU from 2013 or later; in a virtual machine, pass the host's CPU model through")  # fmt: skip
    else:
        yield ok("CPU", f"{model}: {' '.join(has)}")


def cores() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = os.cpu_count() or usable
    quota = cpu_quota(_read(CGROUP_CPU))
    text = f"{usable} of {total} usable"
    if quota is not None and quota < usable:
        yield warn("cores", f"{text}, but a quota of {quota:g} CPUs",
                   f"set --threads {max(1, int(quota))}, or raise the container's CPU limit")  # fmt: skip
    else:
        yield ok("cores", text)


def memory() -> Iterator[Finding]:
    free = available_memory()
    text = f"{human_bytes(free)} free"
    if free < GIB:
        yield warn("memory", text, "close other programs or raise the container's limit; small models only fit here")
    else:
        yield ok("memory", text)


def huge_pages() -> Iterator[Finding]:
    text = _read(THP)
    if not text:
        return
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen == "never":
        yield warn("huge pages", "transparent huge pages are off: weights are read more slowly",
                   f"echo madvise | sudo tee {THP}")  # fmt: skip
    else:
        yield ok("huge pages", f"transparent, {chosen}")


def cpu_quota(text: str) -> float | None:
    """CPUs that ``cpu.max`` (``"200000 100000"`` or ``"max 100000"``) allows."""
    words = text.split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def _cpuinfo(text: str) -> tuple[str, set[str]]:
    model, flags = "", set[str]()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and not model:
            model = " ".join(value.split())
        if name.strip() == "flags" and not flags:
            flags = set(value.split())
    return model, flags


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
