"""The edge: commands, exit codes, one line for every error."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import errors
from penstock.cli import main as edge
from penstock.cli.terminal import coloured, style, visible
from penstock.config import ModelConfig
from tests.cli.conftest import Run, child
from tests.cli.parrot import make_parrot

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
HEAVY = ("numpy", "readline", "msgspec", "starlette", "jinja2", "tokenizers", "torch", "huggingface_hub", "asyncio")


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from penstock.cli.main import main; main(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.endswith("[]\n"), done.stdout
    for command in edge.COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(("command", "own", "then"), [("version", "", "1"), ("version", "4", "4"), ("merge", "", "")])
def test_numpy_starts_no_threads_where_none_is_used(
    command: str, own: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process, whose environment it is; `main` with arguments leaves the environment alone."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", own)
    if not own:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert edge.main([command, "-h"]) == 0
    assert os.environ.get("OPENBLAS_NUM_THREADS", "") == own
    monkeypatch.setattr(sys, "argv", ["penstock", command, "-h"])
    monkeypatch.setattr(edge, "_leave", lambda code: None)  # ends the process where another test left a thread
    assert edge.main() == 0
    assert os.environ.get("OPENBLAS_NUM_THREADS", "") == then


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "doctor"])
def test_help_of_a_command_loads_no_model_library(command: str) -> None:
    code = (
        f"import sys\nfrom penstock.cli.main import main\nassert main(['{command}', '-h']) == 0\n"
        f"sys.exit(str([m for m in {HEAVY!r} if m in sys.modules and m != 'numpy'] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in ("", "[]")


def test_every_command_exists() -> None:
    for module, text in edge.COMMANDS.values():
        assert importlib.util.find_spec(module) is not None
        assert text
    assert set(edge.ALIASES.values()) <= set(edge.COMMANDS)


def test_version(run: Run) -> None:
    assert run("version").out == run("--version").out
    assert run("-V").out.startswith("penstock ")


def test_no_command_shows_help_and_fails(run: Run) -> None:
    assert run().code == 2
    assert run("help").out == run("--help").out
    assert run("help", "version").out.startswith("usage: penstock version")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("genrate", "did you mean 'generate'?"), ("srve", "did you mean 'serve'?"), ("run", "'chat' for a conversation"),
     ("infer", "'chat'"), ("xyzzy", "`penstock --help` lists all")],
)  # fmt: skip
def test_unknown_commands(run: Run, word: str, hint: str) -> None:
    result = run(word)
    assert result.code == 2
    assert result.err.startswith(f"error: unknown command '{word}'")
    assert hint in result.err
    assert result.err.count("\n") == 1


class _Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def run(self, argv: object) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("a\nb"), 2), (errors.CheckpointError("c"), 3), (errors.UnsupportedError("u"), 3),
        (errors.RequestError("r"), 2), (errors.ExecutionError("e"), 1), (errors.missing("torch"), 4),
        (OSError(28, "No space left on device"), 1), (MemoryError(), 1), (RuntimeError("odd"), 1),
    ],
)  # fmt: skip
def test_every_error_is_one_line_and_a_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    monkeypatch.setattr(edge, "_command", lambda name: _Failing(error))
    result = run("generate")
    assert result.code == code
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert "Traceback" in run("generate", "--debug").err
    assert run("--debug", "generate").err.endswith(result.err)
    monkeypatch.setenv("PENSTOCK_DEBUG", "1")
    assert "Traceback" in run("generate").err


def test_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_command", lambda name: _Failing(KeyboardInterrupt()))
    assert run("generate").code == 130
    assert run("generate").err.strip() == ""


def test_a_reader_that_goes_away_is_no_error(endless: Path) -> None:
    with child(
        "generate", "x", "-m", endless, "-q", "-n", "20000", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        assert made.stderr is not None
        made.stdout.read(20)
        made.stdout.close()
        assert made.stderr.read() == b""
        assert made.wait(60) == 141


def test_ctrl_c_ends_a_generation(endless: Path) -> None:
    with child(
        "generate", "x", "-m", endless, "-q", "-n", "20000", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        assert made.stderr is not None
        made.stdout.read(20)
        made.send_signal(signal.SIGINT)
        made.stdout.read()
        assert made.stderr.read().strip() == b""
        assert made.wait(60) == 130


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [("/no/such/folder", 3, "/no/such/folder"), (".", 3, "config.json")],
)
def test_a_bad_model_path(run: Run, tmp_path: Path, path: str, code: int, text: str) -> None:
    result = run("generate", "hi", "-m", tmp_path if path == "." else path)
    assert result.code == code
    assert text in result.err
    assert result.out == ""
    assert result.err.count("\n") == 1


def test_an_unknown_architecture(run: Run, tmp_path: Path) -> None:
    config = make_parrot(tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lamma"'))
    result = run("generate", "hi", "-m", tmp_path)
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert "lamma" in result.err


def test_colour_only_where_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert style("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("x", "red", Terminal()) == "x"  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(Terminal())  # type: ignore[arg-type]


def test_a_model_cannot_drive_the_terminal() -> None:
    assert visible("a\x1b[2Jb\x07\r\n\tc\x9bd\x7f你") == "a[2Jb\n\tcd你"


def test_python_dash_m(run: Run) -> None:
    with child("version", stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        assert made.stdout.read().decode() == run("version").out


def test_a_wish_that_cannot_be_met_names_the_field(run: Run) -> None:
    assert ModelConfig().dtype == "auto"
    result = run("config", "show", "--block-size", "17")
    assert result.code == 2
    assert "block_size must be one of" in result.err
