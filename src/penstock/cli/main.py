"""``penstock``: finds the command, and turns every error into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Protocol, TextIO, cast

from penstock.cli.terminal import lossy, style
from penstock.errors import ConfigError, PenstockError, nearest

COMMANDS = {
    "generate": ("penstock.cli.generate", "complete prompts, streaming the text as it comes"),
    "chat": ("penstock.cli.chat", "talk with a model in the terminal"),
    "serve": ("penstock.cli.serve", "answer HTTP requests in OpenAI's form"),
    "merge": ("penstock.cli.merge", "merge a LoRA adapter into its base model"),
    "download": ("penstock.cli.download", "fetch a model, or one file of it, from a hub"),
    "tokenize": ("penstock.cli.tokenize", "show the tokens of a text, or the text of tokens"),
    "doctor": ("penstock.cli.doctor", "check this machine and this installation, with a remedy for each finding"),
    "config": ("penstock.cli.config", "show the settings in force and where each comes from"),
    "completion": ("penstock.cli.completion", "print a completion script for bash, zsh or fish"),
    "version": ("penstock.cli.version", "show the version"),
}
ALIASES = {"complete": "generate"}
ELSEWHERE = {
    "run": "'generate' for text, 'chat' for a conversation",
    "infer": "'chat', or 'generate' for one prompt",
    "predict": "'generate --data_file FILE'",
    "predictor": "'generate --data_file FILE'",
    "llama-cli": "'chat', or 'generate' for one prompt",
    "llama-server": "'serve'",
    "text-generation-launcher": "'serve'",
    "app": "'serve', which has a page at /",
    "web-ui": "'serve', which has a page at /",
    "merge-lora": "'merge'",
    "merge_lora": "'merge'",
    "pull": "'download'",
    "launch": "'serve'",
    "run-batch": "'generate --data_file FILE'",
    "deploy": "'serve'",
    "server": "'serve'",
    "api_server": "'serve'",
    "env": "'doctor'",
    "collect-env": "'doctor'",
}
"""What other engines call a command that penstock has."""
NOT_YET = {
    "export": "'--quantization int8' makes a model small while it is read",
    "export_model": "'--quantization int8' makes a model small while it is read",
    "quantize": "'--quantization int8' or 'int4' does it while a model is read",
    "convert": "GGUF files and folders of Hugging Face are read as they are",
    "bench": "scripts/bench measures in a checkout of the source",
    "benchmark": "scripts/bench measures in a checkout of the source",
    "plan": "the start-up table says what is taken and what can grow",
    "verify": "scripts/test compares the executors in a checkout of the source",
    "controller": "one process serves, put a load balancer in front of several",
    "model_worker": "one process serves, put a load balancer in front of several",
}
"""Commands that do not exist so far, with what there is instead."""

USAGE = """usage: penstock COMMAND [options]

Runs large language models: give it a checkpoint, get text. Without --model, the small embedded model answers.

commands:
{commands}

examples:
  penstock generate "The capital of France is"
  penstock chat --model ./Qwen2.5-0.5B-Instruct
  penstock serve ./Qwen2.5-0.5B-Instruct --port 8000

options:
  -h, --help     show this text; `penstock COMMAND --help` shows a command's options
  -V, --version  show the version
  --debug        show tracebacks (also PENSTOCK_DEBUG=1)
"""


class Command(Protocol):
    """What a command's module offers: ``run`` gets the arguments after its name and gives the exit code."""

    def run(self, argv: Sequence[str]) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``penstock`` with ``argv`` (None: the process's own arguments); the process's exit code.

    0 done; 1 failed; 2 a wish or a request that cannot be met; 3 a damaged or unknown checkpoint; 4 a library is
    missing; 130 interrupted; 141 the reader of the output went away.
    """
    if argv is None and sys.argv[1:2] != ["merge"]:  # which multiplies large matrices in numpy
        # numpy's BLAS starts a thread for each CPU, which spins for as long as a tenth of a second while we load.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End now where a helper thread is still busy (a long text, a model being loaded): Python would wait for it."""
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    end = time.monotonic() + 0.5
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(args: list[str]) -> int:
    debug = "--debug" in _before_separator(args) or _on("PENSTOCK_DEBUG")
    _tolerant_streams()
    try:
        code = _dispatch(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        return _tell(error, debug)


def _dispatch(args: list[str]) -> int:
    while args and args[0] == "--debug":
        del args[0]
    if not args or args[0] in ("-h", "--help", "help"):
        if len(args) > 1 and args[0] == "help":
            return _dispatch([args[1], "--help"])
        _out(USAGE.format(commands="\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())))
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        args[0] = "version"
    return _command(args[0]).run(args[1:])


def _command(name: str) -> Command:
    found = ALIASES.get(name, name)
    if found not in COMMANDS:
        if name in NOT_YET:
            raise ConfigError(f"'{name}' is not there yet: {NOT_YET[name]}")
        known = ELSEWHERE.get(name)
        hint = f" (did you mean {known}?)" if known else nearest(name, [*COMMANDS, *ALIASES])
        raise ConfigError(f"unknown command '{name}'{hint}; `penstock --help` lists all")
    return cast(Command, importlib.import_module(COMMANDS[found][0]))


def _tell(error: Exception, debug: bool) -> int:
    """One line on stderr, however the error came; the traceback too when asked for."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, PenstockError):
        text, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        text, code = "out of memory: take a smaller model, or lower --max-model-len or --kv-cache-memory", 1
    elif isinstance(error, OSError):
        text, code = str(error), 1
    else:
        text, code = f"{type(error).__name__}: {error} (a defect of penstock; --debug shows where)", 1
    _flush_quietly()
    print(style("error:", "red", sys.stderr), " ".join(text.split()), file=sys.stderr)
    return code


def _before_separator(args: list[str]) -> list[str]:
    return args[: args.index("--")] if "--" in args else args


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no")


def _tolerant_streams() -> None:
    """A terminal that cannot show a character gets a question mark, and a full disk under stderr loses what is said:
    neither ends a server."""
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = lossy(cast(TextIO, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """The interpreter flushes stdout once more at its end: let that go nowhere."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError):
        pass


def _out(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
