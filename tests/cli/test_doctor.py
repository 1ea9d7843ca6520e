"""``penstock doctor``: every finding is right about what it looks at, and every bad one has a remedy."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from penstock.cli.checks import installation, machine, places
from penstock.cli.checks.finding import Finding
from penstock.cli.options import environment_names
from tests.cli.conftest import Run


def one(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    assert found.text
    assert bool(found.fix) == (found.level != "ok")
    return found


def test_the_report(run: Run) -> None:
    result = run("doctor", "--json", "--port", 0)
    found = {f["name"]: f for f in json.loads(result.out)}
    assert {"system", "CPU", "cores", "memory", "version", "libraries", "native", "model cache", "port"} <= set(found)
    assert result.code == (1 if any(f["level"] == "fail" for f in found.values()) else 0)
    assert all(f["fix"] for f in found.values() if f["level"] != "ok")
    assert found["native"]["level"] == "ok"
    text = run("doctor", "--port", 0).out
    assert text.splitlines()[0].startswith("ok    system")
    assert len([line for line in text.splitlines() if not line.startswith(" ")]) == len(found)


@pytest.mark.parametrize(
    ("flags", "level", "text"),
    [("fma avx2 avx512f avx512_vnni", "ok", "avx2 fma avx512f avx512_vnni"), ("sse4_2", "warn", "no AVX2"),
     ("avx2", "warn", "no AVX2 with FMA")],
)  # fmt: skip
def test_cpu(monkeypatch: pytest.MonkeyPatch, flags: str, level: str, text: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = one(machine.cpu(f"processor : 0\nmodel name\t: Some  CPU\nflags\t\t: fpu {flags} sse\n"))
    assert (found.level, found.text.partition(":")[0]) == (level, "Some CPU")
    assert text in found.text


def test_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert one(machine.cpu("")).level == "warn"
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "container" in one(machine.system()).fix
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.release", lambda: "4.4.0-19041-Microsoft")
    assert "wsl --set-version" in one(machine.system()).fix


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("200000 100000", 2.0), ("50000 100000", 0.5), ("", None), ("1 0", None)]
)
def test_cpu_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, quota: float | None) -> None:
    assert machine.cpu_quota(text) == quota
    file = tmp_path / "cpu.max"
    file.write_text(text)
    monkeypatch.setattr(machine, "CGROUP_CPU", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    found = one(machine.cores())
    assert found.level == ("ok" if quota is None else "warn")
    assert quota is None or f"--threads {max(1, int(quota))}" in found.fix


@pytest.mark.parametrize(
    ("text", "level"),
    [("always [madvise] never", "ok"), ("[always] madvise never", "ok"), ("always madvise [never]", "warn")],
)  # fmt: skip
def test_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, level: str) -> None:
    monkeypatch.setattr(machine, "THP", tmp_path / "enabled")
    assert list(machine.huge_pages()) == []
    (tmp_path / "enabled").write_text(text)
    assert one(machine.huge_pages()).level == level


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 100 << 20)
    assert one(machine.memory()).text == "100 MiB free"
    assert one(machine.memory()).level == "warn"


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("tokenizers", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [
        "numpy>=1.26", "tokenizers<1,>=0.21", "rich", "torch==2; extra == 'test'",
    ])  # fmt: skip
    missing, optional = installation.libraries()
    assert (missing.level, missing.fix) == ("fail", "pip install tokenizers")
    assert "no torch (the torch executor: pip install torch)" in optional.text


def test_an_extension_that_does_not_load_or_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    import penstock

    monkeypatch.setitem(sys.modules, "penstock._native", None)
    monkeypatch.delattr(penstock, "_native", raising=False)
    found = one(installation.native())
    assert found.level == "fail"
    assert "scripts/build" in found.fix
    monkeypatch.setattr(penstock, "_native", SimpleNamespace(__version__="0.0.1"), raising=False)
    assert one(installation.native()).level == "warn"


def test_the_probe_s_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        "isa": "avx2",
        "threads": 2,
        "read_gbs": 25.52,
        "f32_gflops": 114.5,
        "bf16_gflops": 0.0,
        "int8_gops": 1.0,
    }
    text = one(installation._probe(lambda: figures)).text
    assert text.startswith("memory reads 25.52 GB/s, f32 114.5 GFLOP/s")
    assert text.endswith("(avx2, 2 threads)")
    assert list(installation._probe(None)) == []
    assert one(installation._probe(lambda: 1 / 0)).level == "warn"


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_THREDS", "2")
    monkeypatch.setenv("PENSTOCK_DTYPE", "float32")
    wrong, right = installation.environment(frozenset(environment_names()))
    assert "PENSTOCK_THREADS" in wrong.text
    assert right.text == "PENSTOCK_DTYPE=float32"


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    cache, history = places.folders()
    assert cache.text.startswith(f"{tmp_path}/not/yet, ")
    assert history.level == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20})())
    assert next(iter(places.folders())).fix.endswith("larger disk")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be written" in next(iter(places.folders())).text


def test_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert "--port" in one(places.port(number)).fix
    assert one(places.port(0)).level == "ok"


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxy")
def test_a_hub_tells_at_which_step_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert one(places.hub("hub", f"http://127.0.0.1:{number}", "HF_ENDPOINT")).level == "ok"

        def answer() -> None:
            line, _ = server.accept()
            line, _ = server.accept()
            line.sendall(b"this is no TLS\r\n" * 4)
            line.close()

        talker = threading.Thread(target=answer)
        talker.start()
        found = one(places.hub("hub", f"https://127.0.0.1:{number}", "HF_ENDPOINT"))
        talker.join()
        assert "TLS" in found.text
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{number}")
        assert f"proxy 127.0.0.1:{number}" in one(places.hub("hub", "https://huggingface.co", "HF_ENDPOINT")).text
    monkeypatch.delenv("HTTPS_PROXY")
    assert "refused" in one(places.hub("hub", f"http://127.0.0.1:{number}", "HF_ENDPOINT")).text
    monkeypatch.setattr("socket.create_connection", _unknown_name)
    found = one(places.hub("hub", "https://huggingface.co", "HF_ENDPOINT"))
    assert "cannot be resolved" in found.text
    assert "DNS" in found.fix
    monkeypatch.setattr("socket.create_connection", _silence)
    assert "does not answer" in one(places.hub("hub", "https://huggingface.co", "HF_ENDPOINT")).text


def _unknown_name(*args: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def _silence(*args: object) -> None:
    raise TimeoutError
