"""Free memory is what the machine has, less where a cgroup allows less: its own or one above it, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cgroups of a machine with 8 GiB free."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN", tmp_path / "own")
    monkeypatch.setattr(memory, "_meminfo", lambda: 8 * GIB)
    return tmp_path


def group(machine: Path, name: str, limit: str, used: int, version: int = 2) -> None:
    folder = machine / "cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = memory.LIMITS[2 - version]
    (folder / files[0]).write_text(f"{limit}\n")
    (folder / files[1]).write_text(f"{used}\n")


def own(machine: Path, *lines: str) -> None:
    (machine / "own").write_text("".join(f"{line}\n" for line in lines))


def test_without_cgroups(machine: Path) -> None:
    assert memory.available_memory() == 8 * GIB


def test_a_container_sees_its_limit_at_the_root(machine: Path) -> None:
    group(machine, "", str(2 * GIB), GIB)
    own(machine, "0::/")
    assert memory.available_memory() == GIB
    group(machine, "", "max", GIB)
    assert memory.available_memory() == 8 * GIB


@pytest.mark.parametrize("holder", ["system.slice", "system.slice/penstock.service"])
def test_a_service_sees_its_own_limit_and_those_above(machine: Path, holder: str) -> None:
    group(machine, "system.slice", "max", GIB)
    group(machine, "system.slice/penstock.service", "max", GIB)
    group(machine, holder, str(3 * GIB), GIB)
    own(machine, "0::/system.slice/penstock.service")
    assert memory.available_memory() == 2 * GIB


def test_version_1(machine: Path) -> None:
    group(machine, "memory", str((1 << 63) - 4096), GIB, version=1)
    group(machine, "memory/docker/abc", str(GIB), GIB // 4, version=1)
    group(machine, "cpu/docker/other", str(1), 0, version=1)
    own(machine, "5:cpu,cpuacct:/docker/other", "4:memory:/docker/abc", "0::/")
    assert memory.available_memory() == GIB - GIB // 4


def test_files_that_can_be_forgotten_are_room(machine: Path) -> None:
    group(machine, "", str(4 * GIB), 3 * GIB)
    (machine / "cgroup" / "memory.stat").write_text(f"anon 1\ninactive_file {2 * GIB}\n")
    own(machine, "0::/")
    assert memory.available_memory() == 3 * GIB
    (machine / "cgroup" / "memory.stat").write_text("rubbish")
    assert memory.available_memory() == GIB


def test_more_used_than_allowed_leaves_nothing(machine: Path) -> None:
    group(machine, "", str(GIB), 2 * GIB)
    assert memory.available_memory() == 0


def test_what_cannot_be_read_limits_nothing(machine: Path) -> None:
    own(machine, "nonsense", "0::/../../etc", "1:memory")
    group(machine, "", "abc", 5)
    assert memory.available_memory() == 8 * GIB
