"""``penstock chat`` on a terminal: keys, not lines."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.parrot import HELLO
from tests.cli.terminal import Terminal
from tests.helpers import REPOSITORY

TEXT = b"".join(HELLO).decode()

CTRL_C, CTRL_D, ALT_ENTER, UP, BACK, LEFT = "\x03", "\x04", "\x1b\r", "\x1b[A", "\x7f", "\x1b[D"
PASTED = "\x1b[200~first\rsecond\x1b[201~"


def test_a_session(parrot: Path, tmp_path: Path) -> None:
    with Terminal("chat", parrot, "--temp", 0) as screen:
        screen.expect("/help lists the commands")
        screen.expect(">>>")
        screen.keys("hello\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys("/set temprature 1\r")
        screen.expect("did you mean 'temperature'?")
        screen.keys("/set temperature 0.5\r")
        screen.expect("temperature = 0.5")
        screen.keys("/regen\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys("/stats\r")
        screen.expect("output tokens: 8")
        screen.expect(">>>")
        screen.keys("half a line")
        screen.expect("half a line")
        screen.interrupt("(Ctrl-D or /exit ends)")
        screen.expect(">>>")
        screen.keys(CTRL_D)
        assert screen.end() == 0
        assert "Traceback" not in screen.text
    history = (tmp_path / "state" / "penstock" / "history").read_text()
    assert history.splitlines()[:2] == ["hello", "/set temprature 1"]
    assert "half a line" not in history


def test_ctrl_c_stops_only_the_answer(endless: Path) -> None:
    with Terminal("chat", endless, "-q", "-n", 30000) as screen:
        screen.expect(">>>")
        screen.keys("go\r")
        screen.expect(TEXT + TEXT)
        screen.keys(CTRL_C)
        screen.expect("[stopped]")
        screen.expect(">>>")
        screen.keys("/stats\r")
        counted = screen.expect("time to first token")
        assert 14 <= int(re.search(r"output tokens: (\d+)", counted).group(1)) < 30000  # type: ignore[union-attr]
        screen.keys("/set max_tokens 3\r")
        screen.expect("max_tokens = 3")
        screen.keys("again\r")
        screen.expect("the answer reached its limit of 3 tokens")
        screen.expect(">>>")
        screen.keys("/exit\r")
        assert screen.end() == 0


@pytest.mark.parametrize(
    "keys", [f"first{ALT_ENTER}second\r", '"""first\rsecond"""\r', "first\\\rsecond\r", f"{PASTED}\r"]
)
def test_several_lines(parrot: Path, tmp_path: Path, keys: str) -> None:
    kept = tmp_path / "kept.json"
    with Terminal("chat", parrot, "-q") as screen:
        screen.expect(">>>")
        screen.keys(keys)
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys(f"/save {kept}\r")
        screen.expect("2 messages kept")
        screen.keys("/bye\r")
        assert screen.end() == 0
    assert '"first\\nsecond"' in kept.read_text()


def test_history_comes_back_and_the_interface_speaks_chinese(parrot: Path) -> None:
    with Terminal("chat", parrot, LANG="zh_CN.UTF-8") as screen:
        screen.expect("输入 /help 查看命令")
        screen.expect(">>>")
        screen.keys("/show\r")
        screen.expect("没有系统提示词")
        screen.keys("你好\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys(CTRL_D)
        assert screen.end() == 0
    with Terminal("chat", parrot, "-q") as screen:
        screen.expect(">>>")
        screen.keys(UP + UP)
        screen.expect("/show")
        screen.keys("\r")
        screen.expect("No system prompt.")
        screen.keys(CTRL_D)
        assert screen.end() == 0


def test_what_is_typed_during_an_answer_waits_for_its_end(endless: Path) -> None:
    with Terminal("chat", endless, "-q", "-n", 400) as screen:
        screen.expect(">>>")
        screen.keys("go\r")
        screen.expect(TEXT)
        screen.keys("/set seed 7\r" + CTRL_D)
        answer = screen.expect("[the answer reached its limit of 400 tokens")
        assert "seed" not in answer
        screen.expect("seed = 7")
        assert screen.end() == 0


def test_escape_sequences_of_a_model_are_not_shown(tmp_path: Path) -> None:
    from tests.cli.parrot import make_parrot

    rude = make_parrot(tmp_path / "rude", (b"a\x1b[2J", b"\x07b\x1b]0;t"))
    with Terminal("chat", rude, "-q") as screen:
        screen.expect(">>>")
        screen.keys("hi\r")
        screen.expect("a[2Jb]0;t")
        assert "\x1b]0;t" not in screen._raw.decode()
        screen.expect(">>>")
        screen.keys(CTRL_D)
        assert screen.end() == 0


def test_colour_unless_told_otherwise(parrot: Path) -> None:
    for environment, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal("chat", parrot, "-q", **environment) as screen:
            screen.expect(">>>")
            screen.keys("/nothing\r")
            screen.expect("error: unknown command /nothing")
            assert ("\x1b[31m" in screen._raw.decode()) is coloured
            screen.keys(CTRL_D)
            assert screen.end() == 0


@pytest.mark.parametrize("lang", [{"LANG": "zh_CN.UTF-8"}, {"LC_ALL": "C"}, {"LC_ALL": "zz_ZZ.UTF-8"}])
def test_wide_characters_are_edited_whole(parrot: Path, tmp_path: Path, lang: dict[str, str]) -> None:
    kept = tmp_path / "kept.json"
    with Terminal("chat", parrot, "-q", NO_COLOR="", **lang) as screen:
        screen.expect(">>>")
        screen.keys("你好吗" + BACK + "世" + LEFT + BACK + "们\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys(f"/save {kept}\r")
        screen.expect("kept.json")
        screen.keys(CTRL_D)
        assert screen.end() == 0
    assert json.loads(kept.read_text())["messages"][0]["content"] == "你们世"


def test_a_multi_line_message_comes_back_whole(parrot: Path) -> None:
    for keys in ('"""one\rtwo"""\r', UP + UP + "\r"):
        with Terminal("chat", parrot, "-q") as screen:
            screen.expect(">>>")
            screen.keys(keys)
            screen.expect(TEXT)
            screen.expect(">>>")
            screen.keys("/stats\r")
            screen.expect(f"input tokens: {len('[user]one-two-[assistant]')}")
            screen.expect(">>>")
            screen.keys(UP + UP)
            screen.expect('two"""')
            screen.interrupt(">>>")
            screen.keys(CTRL_D)
            assert screen.end() == 0


def test_tab_completes_commands_names_and_files(parrot: Path, tmp_path: Path) -> None:
    with Terminal("chat", parrot, "-q") as screen:
        screen.expect(">>>")
        screen.keys("/sy\tBe brief.\r")
        screen.expect("system: Be brief.")
        screen.keys("/se\ttempe\t0.25\r")
        screen.expect("temperature = 0.25")
        screen.keys("hi\r")
        screen.expect(TEXT)
        (tmp_path / "long-name.json").write_text('[{"role": "user", "content": "x"}]')
        screen.keys(f"/lo\t{tmp_path}/lon\t\r")
        screen.expect("1 messages from")
        screen.keys(CTRL_D)
        assert screen.end() == 0


def test_ctrl_c_drops_all_lines_of_a_message(parrot: Path) -> None:
    with Terminal("chat", parrot, "-q") as screen:
        screen.expect(">>>")
        screen.keys('"""one\r')
        screen.expect("...")
        screen.interrupt("(Ctrl-D or /exit ends)")
        screen.keys("/regen\r")
        screen.expect("There is no message to answer again.")
        screen.keys(CTRL_D)
        assert screen.end() == 0


def test_ctrl_c_works_where_the_parent_ignored_it(parrot: Path) -> None:
    """Shells start what runs in their background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        screen = Terminal("chat", parrot, "-q")
    finally:
        signal.signal(signal.SIGINT, before)
    with screen:
        screen.expect(">>>")
        screen.keys("half")
        screen.expect("half")
        screen.interrupt("(Ctrl-D or /exit ends)")
        screen.expect(">>>")
        screen.keys("hello\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.interrupt("(Ctrl-D or /exit ends)")
        screen.keys(CTRL_D)
        assert screen.end() == 0


def test_a_python_without_readline(parrot: Path, tmp_path: Path) -> None:
    (tmp_path / "readline.py").write_text("raise ImportError('this build has none')")
    path = f"{tmp_path}:{REPOSITORY / 'src'}"
    with Terminal("chat", parrot, "-q", NO_COLOR="", PYTHONPATH=path) as screen:
        screen.expect(">>>")
        screen.keys("你好" + BACK + "\r")
        screen.expect(TEXT)
        screen.expect(">>>")
        screen.keys("half")
        screen.expect("half")
        screen.interrupt("(Ctrl-D or /exit ends)")
        screen.expect(">>>")
        screen.keys("/stats\r")
        screen.expect(f"input tokens: {len('[user]') + 3 + len('-[assistant]')}")
        screen.expect(">>>")
        screen.keys(CTRL_D)
        assert screen.end() == 0
        assert "\x01" not in screen.text
    assert (tmp_path / "state" / "penstock" / "history").read_text() == "你\n/stats\n"
