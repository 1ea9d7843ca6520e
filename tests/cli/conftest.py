"""What tests of the command line share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.cli.main import main
from tests.cli.parrot import make_parrot
from tests.helpers import REPOSITORY

Run = Callable[..., "Result"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """English, no colour, and a state folder that is the test's own."""
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("generate", "hi", stdin="...")`` in this process."""

    def run_here(*args: object, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run_here


@pytest.fixture(scope="session")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that answers `` Hello, 你好 😀!!``."""
    return make_parrot(tmp_path_factory.mktemp("parrot") / "parrot")


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, over and over."""
    return make_parrot(tmp_path_factory.mktemp("endless") / "endless", loop=True, context=1 << 15)


def child(*args: object, **more: object) -> subprocess.Popen[bytes]:
    """``penstock`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}", **dict(more.pop("env", {}))}  # type: ignore[call-overload]
    command = [sys.executable, "-m", "penstock", *map(str, args)]
    return subprocess.Popen(command, env=environment, **more)  # type: ignore[call-overload]
