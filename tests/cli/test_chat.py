"""``penstock chat`` from a pipe, and the conversation behind it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import running
from penstock.cli.chat import Painter
from penstock.cli.chat_commands import SETTABLE, Commands
from penstock.cli.chat_input import is_open, unfenced
from penstock.cli.conversation import Conversation
from penstock.cli.line_editor import history_file
from penstock.cli.messages import TEXTS
from penstock.cli.terminal import cells
from penstock.errors import ConfigError, ContextLengthError, RequestError
from penstock.llm import LLM
from penstock.types import SamplingParams
from tests.cli.conftest import Run
from tests.cli.parrot import HELLO

TEXT = b"".join(HELLO).decode()


@pytest.fixture(scope="module")
def llm(parrot: Path) -> Iterator[LLM]:
    with LLM(str(parrot), max_model_len=256) as loaded:
        yield loaded


@pytest.fixture
def talk(llm: LLM) -> Conversation:
    return Conversation(llm, SamplingParams(max_tokens=64))


def say(talk: Conversation, text: str, **more: Any) -> str:
    return "".join(talk.ask(text, **more))


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def commands(talk: Conversation, shown: list[str]) -> Commands:
    return Commands(talk, shown.append)


def test_a_transcript(run: Run, parrot: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    lines = [
        "hello", "", "/set temperature 0", '"""two', 'lines"""', "/regen", f"/save {kept}", "/clear", "/regen",
        f"/load {kept}", "/system Be brief.", "/set temprature 3", "/shwo", "again", "quit", "never read",
    ]  # fmt: skip
    result = run("chat", parrot, "-q", "--max_new_tokens", "128", stdin="\n".join(lines))
    assert result.out.splitlines() == [
        TEXT, "temperature = 0", TEXT, TEXT, f"4 messages kept in {kept}", "The conversation is forgotten.",
        f"4 messages from {kept}", "system: Be brief.", TEXT,
    ]  # fmt: skip
    errors = result.err.splitlines()
    assert errors[0] == "error: There is no message to answer again."
    assert errors[1] == "error: there is no parameter 'temprature' (did you mean 'temperature'?); /show lists all"
    assert errors[2].startswith("error: unknown command /shwo (did you mean '/show'?)")
    assert result.code == 2
    content = json.loads(kept.read_text())
    assert [m["content"] for m in content["messages"]] == ["hello", TEXT, "two\nlines", TEXT]
    assert content["sampling"] == {"temperature": 0, "max_tokens": 128}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_the_end_of_input_ends(run: Run, parrot: Path) -> None:
    result = run("chat", "--model", parrot, "-q", stdin="你好\n")
    assert (result.code, result.out, result.err) == (0, TEXT + "\n", "")
    assert run("chat", parrot, "-q", stdin='"""never closed\n').out == TEXT + "\n"
    assert run("chat", parrot, "-q", stdin="").out == ""
    bad = run("chat", parrot, "-q", stdin=b"\xff\nhi\n")
    assert (bad.code, bad.out) == (2, TEXT + "\n")
    assert "not UTF-8" in bad.err


def test_two_models_are_one_too_many(run: Run, parrot: Path) -> None:
    assert "two models" in run("chat", parrot, "--model", "other").err


def test_a_message_that_does_not_fit_is_told_and_forgotten(talk: Conversation) -> None:
    with pytest.raises(ContextLengthError, match="256"):
        say(talk, "x" * 400)
    assert talk.messages == []
    assert say(talk, "hi") == TEXT


def test_the_oldest_turns_are_left_out_when_the_context_is_full(talk: Conversation) -> None:
    talk.system = "S"
    for _ in range(4):
        assert say(talk, "x" * 40) == TEXT
    assert len(talk.messages) == 8
    prompt = talk.window()
    assert talk.left_out in (2, 4, 6)
    assert len(prompt.token_ids) <= 256 - 64
    assert prompt.text is not None
    assert prompt.text.startswith("[system]S\n[user]x")
    assert prompt.text.count("[user]") == (8 - talk.left_out) // 2


def test_the_notice_of_what_is_left_out(run: Run, parrot: Path) -> None:
    result = run("chat", parrot, "-q", "-c", "128", stdin=("x" * 40 + "\n") * 3)
    assert result.out == (TEXT + "\n") * 3
    assert "the oldest 2 messages are left out" in result.err


def test_a_stopped_answer_is_kept_as_far_as_it_came(endless: Path) -> None:
    with LLM(str(endless)) as llm:
        talk = Conversation(llm, SamplingParams(max_tokens=10000))
        said: list[str] = []
        for text in talk.ask("hi", lambda: len(said) >= 3):
            said.append(text)  # noqa: PERF402
        assert talk.finish_reason == "abort"
        assert talk.messages[-1] == {"role": "assistant", "content": "".join(said)}
        assert "".join(said).startswith(" Hello")
        assert llm.model.engine.has_work is False
        talk.clear()
        assert say(talk, "hi", stopped=lambda: True) == ""
        assert talk.messages == []


def test_another_answer_moves_a_fixed_seed_on(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    real = running.stream

    def watched(llm: Any, prompt: Any, params: SamplingParams, *more: Any) -> Any:
        seeds.append(params.seed)
        return real(llm, prompt, params, *more)

    monkeypatch.setattr("penstock.cli.conversation.stream", watched)
    talk = Conversation(llm, SamplingParams(max_tokens=4, seed=7))
    say(talk, "a")
    for _ in range(2):
        "".join(talk.ask_again())
    say(talk, "b")
    assert seeds == [7, 8, 9, 7]
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/set temperature 0.25", "temperature", 0.25), ("/set temp 0.5", "temperature", 0.5),
        ("/set top_k 5", "top_k", 5), ("/set top-k 5", "top_k", 5),
        ("/set --top_p 0.5", "top_p", 0.5), ("/set seed none", "seed", None),
        ("/set do_sample false", "temperature", 0.0),
        ("/set max_new_tokens 9", "max_tokens", 9), ("/set stop END", "stop", ("END",)),
        ('/set stop ["a", "b c"]', "stop", ("a", "b c")), ("/set ignore_eos TRUE", "ignore_eos", True),
        ("/set max_tokens none", "max_tokens", None), ("/set max_tokens default", "max_tokens", 64),
    ],
)  # fmt: skip
def test_set(commands: Commands, talk: Conversation, line: str, name: str, value: object) -> None:
    commands.run(line)
    assert getattr(talk.params, name) == value
    commands.run(f"/set {name} default")
    assert talk.params == talk.defaults


@pytest.mark.parametrize(
    "line",
    ["/set", "/set temperature", "/set temperature hot", "/set temperature NaN", "/set top_p 7", "/set n 4",
     "/set stop_token_ids [-1]", "/set max_tokens 0", "/set seed 1.5", "/set ignore_eos none-of-it",
     "/set temperature none", "/set top_k " + "[" * 5000, "/stats", "/save", "/load", "/nothing"],
)  # fmt: skip
def test_mistakes_change_nothing(commands: Commands, talk: Conversation, line: str) -> None:
    before = talk.params
    with pytest.raises(RequestError):
        commands.run(line)
    assert talk.params == before


def test_show_and_system(commands: Commands, talk: Conversation, shown: list[str]) -> None:
    commands.run("/system  You are brief. ")
    assert talk.system == "You are brief."
    commands.run("/show")
    assert "system: You are brief." in shown
    assert {line.partition(" = ")[0] for line in shown} >= set(SETTABLE)
    commands.run("/system none")
    assert talk.system is None
    assert shown[-1] == "No system prompt."


def test_stats(commands: Commands, talk: Conversation, shown: list[str]) -> None:
    say(talk, "hi")
    commands.run("/stats")
    assert shown[0] == f"input tokens: {len('[user]hi') + len(chr(10)) + len('[assistant]')}"
    assert shown[1] == f"output tokens: {len(HELLO) + 1}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("/help", True), ("quit", True), (" exit ", True), ("quit smoking", False), ("/usr/bin is what?", False),
     ("/", False), ("a /help", False), ("clear", True), ("/set a b", True)],
)  # fmt: skip
def test_what_is_a_command(commands: Commands, line: str, expected: bool) -> None:
    assert commands.is_command(line) is expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"), ("[]x", "Extra"), ("3", "no list of messages"), ('{"messages": 3}', "no list"),
        ('{"messages": [{"role": "usr", "content": "x"}]}', "did you mean 'user'"),
        ('{"messages": [], "system": 4}', "not text"),
        ('{"messages": [], "sampling": {"temprature": 1}}', "did you mean 'temperature'"),
        ('{"messages": [], "sampling": {"temperature": 1e9}}', "temperature"),
        ("[" * 100000, "recursion"), (None, "No such file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_conversation(
    commands: Commands, talk: Conversation, tmp_path: Path, content: str | None, reason: str
) -> None:
    say(talk, "hi")
    before = list(talk.messages)
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="cannot read") as caught:
        commands.run(f"/load {path}")
    assert reason in str(caught.value)
    assert talk.messages == before


def test_a_bare_list_of_messages_can_be_loaded(commands: Commands, talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('[{"role": "system", "content": "S"}, {"role": "user", "content": "u"}]')
    commands.run(f"/load {path}")
    assert (talk.system, talk.messages) == ("S", [{"role": "user", "content": "u"}])
    assert "".join(talk.ask_again()) == TEXT
    with pytest.raises(ConfigError, match="cannot write"):
        commands.run("/save /no/such/folder/file")


def test_history_is_the_user_s_own(tmp_path: Path) -> None:
    path = history_file()
    assert path == tmp_path / "state" / "penstock" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    history_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_history_where_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert history_file() is None


def test_fences() -> None:
    assert [is_open(t) for t in ('"""', '"""a', '"""a"""', "a", '  """a\nb', '"""a\nb"""  ')] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    assert unfenced('"""a\nb"""') == "a\nb"
    assert unfenced('"""\na\n"""') == "a"
    assert unfenced("plain ") == "plain "


def test_both_languages_say_everything(monkeypatch: pytest.MonkeyPatch, shown: list[str], commands: Commands) -> None:
    import re

    for english, chinese in TEXTS.values():
        assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", chinese))
    for lang, word in (("zh_CN.UTF-8", "采样"), ("zh", "采样"), ("en_GB.UTF-8", "sampling"), ("", "sampling")):
        monkeypatch.setenv("LANG", lang)
        commands.run("/help")
        assert word in shown[-1]
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    commands.run("/help")
    assert "采样" in shown[-1]


def test_code_is_coloured_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.cli import chat

    monkeypatch.setattr(chat, "style", lambda text, name, stream: "\x1b[36m")
    text = "a ``` b\n```py\nx = `1`\n```\nend\n``"
    expected = "a ``` b\n\x1b[36m```py\nx = `1`\n```\x1b[0m\nend\n``"
    for size in (1, 2, 3, 100):
        painter = Painter()
        pieces = [painter.paint(text[i : i + size]) for i in range(0, len(text), size)]
        assert "".join(pieces) + painter.end() == expected
    painter = Painter()
    assert painter.paint("```\nx") + painter.end() == "\x1b[36m```\nx\x1b[0m"


def test_the_help_fits_a_terminal_of_80_columns() -> None:
    assert max(cells(line) for text in TEXTS["help"] for line in text.splitlines()) <= 80
