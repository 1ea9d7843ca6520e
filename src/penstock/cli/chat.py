"""``penstock chat``: talk with a model; Ctrl-C stops an answer, Ctrl-D ends."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from penstock.cli import sampling
from penstock.cli.load import adapter_option, load, take_adapter
from penstock.cli.options import engine_options, take_positional_model
from penstock.cli.other_clients import other_clients
from penstock.cli.parser import Parser
from penstock.cli.prompts import read_file, unescaped
from penstock.cli.terminal import note, style, visible, write
from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from penstock.cli.chat_commands import Commands
    from penstock.cli.chat_input import Reader
    from penstock.cli.conversation import Conversation

EXAMPLES = (
    "penstock chat",
    "penstock chat ./Qwen2.5-0.5B-Instruct --temperature 0.3 --top_p 0.7",
    'penstock chat --system "Answer in one sentence."',
    "printf '你好\\n浙江的省会在哪里?\\n' | penstock chat --quiet",
)
NOTES = """
In the chat, /help lists the commands. Where stdin is no terminal, every line of it is a message.
Every engine option can also be set in the environment: --max-model-len as PENSTOCK_MAX_MODEL_LEN, and so on.
"""


IN = ("in_prefix", "in_suffix")


def parser() -> Parser:
    made = Parser("chat", "Talk with a model.", EXAMPLES, NOTES)
    made.add_argument("place", nargs="?", metavar="MODEL", help="the same as --model")
    made.option("system", "system prompt", synonyms=("system-prompt", "-sys"), metavar="TEXT")
    made.option("prompt_file", "file that the conversation begins with: the system prompt", short="-f",
                synonyms=("file",), metavar="FILE")  # fmt: skip
    made.option("in_prefix", "text before each message, instead of the chat template's (with \\n …)", metavar="TEXT")
    made.option("in_suffix", "text behind each message, before the answer", metavar="TEXT")
    made.switch("quiet", "no start-up table, no progress", short="-q", synonyms=("silent",))
    sampling.sampling_options(made, leave_out=("n", "logprobs"))
    adapter_option(made)
    engine_options(made, leave_out=("seed", "served_model_name", "max_waiting", "skip_tokenizer_init"))
    other_clients(made)
    return made


def _begin(args: argparse.Namespace) -> None:
    """What ``--prompt-file``, ``--in-prefix`` and ``--in-suffix`` say, as a system prompt and a chat template."""
    if hasattr(args, "prompt_file"):
        if hasattr(args, "system"):
            raise ConfigError("--system and --prompt-file both say the system prompt: give one")
        args.system = read_file(args.prompt_file)
    if any(hasattr(args, name) for name in IN):
        if hasattr(args, "chat_template"):
            raise ConfigError("--chat-template and --in-prefix both say how messages are written: give one")
        before, behind = (json.dumps(unescaped(getattr(args, n, "")), ensure_ascii=False) for n in IN)
        args.chat_template = (
            "{% for m in messages %}{% if m.role == 'user' %}"
            f"{{{{ {before} }}}}{{{{ m.content }}}}{{{{ {behind} }}}}"
            "{% else %}{{ m.content }}{% if not loop.last or m.role == 'system' %}{{ '\\n' }}{% endif %}{% endif %}"
            "{% endfor %}"
        )


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    take_positional_model(args)
    take_adapter(args)
    _begin(args)
    sampling.check(args)
    with load(args) as llm:
        from penstock.chat import template
        from penstock.cli.chat_commands import Commands
        from penstock.cli.chat_input import LineReader, TerminalReader
        from penstock.cli.conversation import MAX_TOKENS, Conversation

        template(llm.model)
        params = sampling.params(args, llm.default_sampling_params(), MAX_TOKENS)
        talk = Conversation(llm, params, getattr(args, "system", None), asked=hasattr(args, "max_tokens"),
                            adapter=args.adapter)  # fmt: skip
        commands = Commands(talk, lambda text: write(text + "\n"))
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if interactive and not getattr(args, "quiet", False):
            from penstock.cli.messages import say

            note(say("welcome"))
        if not interactive:
            return _loop(LineReader(), talk, commands, interactive)
        from penstock.cli.line_editor import LineEditor, history_file

        editor = LineEditor(history_file(), commands.complete)
        with _interrupts(signal.default_int_handler), TerminalReader(editor.remember, edits=editor.edits) as reader:
            return _loop(reader, talk, commands, interactive)


@contextmanager
def _interrupts(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """While inside, Ctrl-C goes to ``handler``. A process started in a shell's background inherits it ignored."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _loop(reader: Reader, talk: Conversation, commands: Commands, interactive: bool) -> int:
    """Message after message; the exit code: 0 at a terminal, else that of the first message that failed."""
    from penstock.cli.chat_commands import END, REGENERATE
    from penstock.cli.messages import say

    code = 0
    while True:
        try:
            line = reader.read()
            if line is None:
                return code
            if not line.strip():
                continue
            if commands.is_command(line):
                effect = commands.run(line)
                if effect == END:
                    return code
                if effect != REGENERATE:
                    continue
                line = ""
            _answer(talk, line, interactive)
        except KeyboardInterrupt:
            if not interactive:
                raise
            note(say("leave"))
        except PenstockError as error:
            print(style(f"error: {' '.join(str(error).split())}", "red", sys.stderr), file=sys.stderr, flush=True)
            code = code or (0 if interactive else error.exit_code)


def _answer(talk: Conversation, line: str, interactive: bool) -> None:
    """One answer, written as it comes. ``line`` empty: the last message once more."""
    from penstock.cli.messages import say

    painter = Painter()
    with _interruptible(interactive) as stopped:
        before = talk.left_out
        for text in talk.ask(line, stopped) if line else talk.ask_again(stopped):
            write(painter.paint(visible(text) if sys.stdout.isatty() else text))
    write(painter.end() + "\n")
    if talk.left_out > before:
        note(say("dropped", context=talk.context, count=talk.left_out))
    if talk.finish_reason == "abort":
        note(say("stopped"))
    elif talk.finish_reason == "length" and talk.stats is not None:
        limit = talk.params.max_tokens
        full = limit is None or talk.stats.output_tokens < limit
        note(say("context full", context=talk.context) if full else say("cut", limit=limit))


@contextmanager
def _interruptible(interactive: bool) -> Iterator[Any]:
    """While inside, the first Ctrl-C only asks the answer to stop, and a second one interrupts."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if not interactive:
        yield lambda: False
        return
    with _interrupts(ask):
        yield lambda: asked


class Painter:
    """Colours fenced code while text streams; holds back at most the two backticks that may become a fence."""

    FENCE = "```"

    def __init__(self) -> None:
        self._code = False
        self._line = ""
        self._held = ""

    def paint(self, text: str) -> str:
        if style("x", "cyan", sys.stdout) == "x":
            return text
        out = []
        for char in text:
            self._line = "" if char == "\n" else self._line + char
            if self._line and self.FENCE.startswith(self._line) and self._line != self.FENCE:
                self._held += char
                continue
            if self._line == self.FENCE:
                out.append(self._fence(self._held + char))
            else:
                out.append(self._held + char)
            self._held = ""
        return "".join(out)

    def end(self) -> str:
        rest, self._held = self._held, ""
        return rest + ("\x1b[0m" if self._code else "")

    def _fence(self, text: str) -> str:
        self._code = not self._code
        return f"\x1b[36m{text}" if self._code else f"{text}\x1b[0m"
