"""Completion scripts, run by the shells they are for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.cli.completion import SHELLS, commands
from penstock.cli.main import COMMANDS
from tests.cli.conftest import Run


@pytest.fixture
def script(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    shell = str(request.param)
    path = tmp_path / f"penstock.{shell}"
    result = run("completion", shell)
    assert (result.code, result.err) == (0, "")
    path.write_text(result.out)
    return path


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")


def test_every_command_and_option_is_known() -> None:
    found = commands()
    assert set(found) == set(COMMANDS)
    names = {name for flag in found["serve"][1] for name in flag.names}
    assert {"--port", "--max-model-len", "-m", "--log-requests", "--no-log-requests"} <= names
    assert "--n-gpu-layers" not in names


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_the_shell_accepts_it(script: Path) -> None:
    shell = script.suffix[1:]
    need(shell)
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gener", ["generate"]), ("generate --max-t", ["--max-tokens"]), ("serve --no-log", ["--no-log-requests"]),
        ("chat --dtype b", ["bfloat16"]), ("completion ", ["bash", "zsh", "fish"]), ("chat --dty", ["--dtype"]),
        ("generate --system --te", []), ("generate x", []), ("nothing --x", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes(script: Path, words: str, expected: list[str]) -> None:
    need("bash")
    typed = ["penstock", *words.split(" ")]
    quoted = " ".join(f"'{word}'" for word in typed)
    code = f'source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(typed) - 1}; _penstock; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (expected, "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("gener", "generate"),
        ("generate --max-t", "--max-tokens"),
        ("chat --dtype bf", "bfloat16"),
    ],
)
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes(script: Path, typed: str, expected: str) -> None:
    need("fish")
    code = f"source {script}; complete -C 'penstock {typed}'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [expected]


def test_another_shell_is_told_which_there_are(run: Run) -> None:
    result = run("completion", "tcsh")
    assert result.code == 2
    assert "bash" in result.err
