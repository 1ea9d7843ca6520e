"""``penstock generate`` on a checkpoint whose answer is known."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from penstock.cli.dump import _described
from tests.cli.conftest import Run, child
from tests.cli.parrot import HELLO, make_parrot

TEXT = b"".join(HELLO).decode()


def test_text_to_stdout_and_the_rest_to_stderr(run: Run, parrot: Path) -> None:
    result = run("generate", "x", "-m", parrot)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert "memory that can grow" in result.err
    assert run("generate", "x", "-m", parrot, "--quiet").err == ""
    assert run("complete", "x", "-m", parrot, "-q").out == TEXT + "\n"


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_modes_agree(run: Run, parrot: Path, mode: str) -> None:
    assert run("generate", "x", "-m", parrot, "-q", "--mode", mode, "--seed", 3, "--temp", 1).out == TEXT + "\n"


def test_prompts_from_everywhere(run: Run, parrot: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("\ufefffrom a file\n", encoding="utf-8")
    result = run("generate", "arg", "-", "-p", "option", "-f", file, "-m", parrot, "-q", "--json", stdin="piped\r\n")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [r["prompt"] for r in records] == ["arg", "piped", "option", "from a file"]
    assert {r["outputs"][0]["text"] for r in records} == {TEXT}
    assert json.loads(run("generate", "-m", parrot, "-q", "--json", stdin="alone").out)["prompt"] == "alone"


def test_json(run: Run, parrot: Path) -> None:
    result = run("generate", "ab", "-m", parrot, "--json", "-q", "--logprobs", 1, "--n", 2)
    record = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert "你好" in result.out
    assert record["usage"] == {"prompt_tokens": 2, "completion_tokens": 2 * (len(HELLO) + 1), "cached_tokens": 0}
    assert [o["index"] for o in record["outputs"]] == [0, 1]
    first = record["outputs"][0]
    assert (first["finish_reason"], first["stop_reason"]) == ("stop", None)
    assert len(first["token_ids"]) == len(first["logprobs"]) == len(HELLO) + 1
    assert record["seconds"] >= record["ttft"] > 0
    best = first["logprobs"][0][str(first["token_ids"][0])]
    assert best["rank"] == 1
    assert -0.01 < best["logprob"] <= 0


def test_several_prompts_give_one_result_each_in_order(run: Run, parrot: Path) -> None:
    out = run("generate", "one", "two\nlines", "-m", parrot, "-q").out
    assert out == f"==> one <==\n{TEXT}\n==> two lines <==\n{TEXT}\n"
    assert run("generate", "one", "-m", parrot, "-q", "--n", 2).out == f"==> [1] <==\n{TEXT}\n==> [2] <==\n{TEXT}\n"
    assert run("generate", "ab ", "-m", parrot, "-q", "--echo").out == f"ab {TEXT}\n"


def test_chat_and_system(run: Run, parrot: Path) -> None:
    def tokens(*args: object) -> int:
        result = run("generate", "hi", "-m", parrot, "-q", "--json", *args)
        assert json.loads(result.out)["outputs"][0]["text"].strip() == TEXT.strip()
        return int(json.loads(result.out)["usage"]["prompt_tokens"])

    assert tokens() == 2
    assert tokens("--chat") == len("[user]hi\n[assistant]")
    assert tokens("--system", "S") == len("[system]S\n[user]hi\n[assistant]")


@pytest.mark.parametrize(
    ("lang", "flag", "labels"),
    [
        ("en_US.UTF-8", "--stats", ["input tokens", "output tokens", "seconds", "tokens/s"]),
        ("zh_CN.UTF-8", "--stats", ["输入总token数", "输出总tokens数", "输出耗时 s", "输出tokens/s"]),
        ("en_US.UTF-8", "--stats=zh", ["输入总token数", "输出总tokens数", "输出耗时 s", "输出tokens/s"]),
        ("C", "--stats=both", ["输入总token数 / input tokens", "输出tokens/s / tokens/s"]),
    ],
)
def test_stats(
    run: Run, parrot: Path, monkeypatch: pytest.MonkeyPatch, lang: str, flag: str, labels: list[str]
) -> None:
    monkeypatch.setenv("LANG", lang)
    result = run("generate", flag, "abc", "-m", parrot, "-q")
    assert result.out == TEXT + "\n"
    found = dict(line.rsplit(": ", 1) for line in result.err.splitlines())
    assert set(labels) <= set(found)
    values = list(found.values())
    assert values[:2] == ["3", str(len(HELLO) + 1)]
    seconds, speed, ttft = map(float, values[2:])
    assert 0 < ttft <= seconds
    assert speed == pytest.approx((len(HELLO) + 1) / seconds, rel=0.1, abs=0.1)


def test_profile_counts_every_op(run: Run, parrot: Path) -> None:
    err = run("generate", "x", "-m", parrot, "-q", "--profile").err
    lines = err.splitlines()
    steps = int(re.search(r"in (\d+) steps", err).group(1))  # type: ignore[union-attr]
    table = [line.split() for line in lines[1 : lines.index(f"in {steps} steps of {steps} tokens, unfused")]]
    kinds = {row[0]: int(row[1]) for row in table}
    assert steps == len(HELLO) + 1
    assert kinds["attention"] == kinds["embed"] == steps
    assert kinds["all"] == sum(count for kind, count in kinds.items() if kind != "all")
    shares = [float(row[4].removesuffix("%")) for row in table[:-1]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=1)
    moved = [float(row[5]) for row in table]
    assert moved[-1] == pytest.approx(sum(moved[:-1]), rel=0.02)
    assert all(row[-1] == "-" or float(row[-1].removesuffix("%")) >= 0 for row in table)
    assert table[-1][-1].endswith("%")
    assert lines[-1].startswith("limits, measured just before: read ")


def test_values_are_dumped_by_name(run: Run, parrot: Path) -> None:
    plain = run("generate", "xy", "-m", parrot, "-q", "-n", 2)
    result = run("generate", "xy", "-m", parrot, "-q", "-n", 2, "--dump-values", "layers.0.attn_norm,head", "--profile")
    assert result.out == plain.out
    lines = [line.split() for line in result.err.splitlines()]
    first = lines.index(["step", "1:", "2", "tokens"])
    norm, head, second = lines[first + 1 : first + 4]
    assert norm[:6] == ["layers.0.attn_norm", "norm", "[2,", "320]", "min", "0"]
    assert head[:4] == ["head", "linear", "[1,", "320]"]
    assert float(head[head.index("min") + 1]) == 0
    assert float(head[head.index("max") + 1]) > 10
    assert head[-1] == "…"
    assert second == ["step", "2:", "1", "tokens"]
    assert any(line[0] == "all" for line in lines)
    every = run("generate", "xy", "-m", parrot, "-q", "-n", 1, "--dump-values", "*").err
    assert {"embed", "layers.0.mlp.gate", "layers.0.mlp.up", "head"} <= {line.split()[0] for line in every.splitlines()}
    wrong = run("generate", "xy", "-m", parrot, "-q", "--dump-values", "layers.0.atn_norm")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean 'layers.0.attn_norm'?" in wrong.err


def test_numbers_of_a_value() -> None:
    import numpy as np

    assert _described(np.zeros((0, 4), np.float32)) == "[0, 4]"
    made = _described(np.array([[1, 2, 3], [np.nan, np.inf, -5]], np.float32)).split()
    assert made == ["[2,", "3]", "min", "-5", "max", "3", "mean", "0.25", "2", "not", "finite", "nan", "inf", "-5"]
    assert "min" not in _described(np.full((1, 2), np.nan, np.float32))
    assert "3e+38" in _described(np.full((1, 2), 3e38, np.float32))


def test_stop_and_limits(run: Run, parrot: Path, endless: Path) -> None:
    assert run("generate", "x", "-m", parrot, "-q", "--stop", "你").out == " Hello, \n"
    assert run("generate", "x", "-m", parrot, "-q", "-n", 1).out == " Hello\n"
    record = json.loads(run("generate", "x", "-m", endless, "-q", "--json").out)
    assert record["usage"]["completion_tokens"] == 256
    assert record["outputs"][0]["finish_reason"] == "length"


def test_the_default_length_fits_a_small_context_and_a_wish_does_not(run: Run, endless: Path) -> None:
    short = ("generate", "x" * 30, "-m", endless, "-q", "-c", 64)
    assert json.loads(run(*short, "--json").out)["usage"]["completion_tokens"] == 34
    refused = run(*short, "-n", 50)
    assert refused.code == 2
    assert "lower max_tokens to 34" in refused.err
    assert "64" in run("generate", "x" * 70, "-m", endless, "-q", "-c", 64).err


def test_token_ids_without_a_tokenizer(run: Run, parrot: Path, tmp_path: Path) -> None:
    bare = make_parrot(tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    result = run("generate", "[65, 66]", "-m", bare, "-q", "--skip-tokenizer-init")
    assert result.out == " ".join(str(256 + i) for i in range(len(HELLO) + 1)) + " \n"
    assert run("generate", "text", "-m", bare, "-q", "--skip-tokenizer-init").code == 2
    assert "--skip-tokenizer-init" in run("generate", "text", "-m", bare, "-q").err


@pytest.mark.parametrize(
    ("args", "stdin", "text"),
    [
        (["-f", "/no/such/file"], "", "cannot read the prompt file /no/such/file"),
        (["-"], b"\xff\xfe", "stdin is not UTF-8"),
        ([""], "", "empty"),
        (["x", "--temperature", "nan"], "", "temperature"),
        (["x", "--n", "1000000000"], "", "n must be"),
        (["x", "--min-tokens", "9", "-n", "3"], "", "min_tokens"),
        (["x", "--stop", ""], "", "stop"),
    ],
)
def test_bad_wishes_are_one_line(run: Run, parrot: Path, args: list[str], stdin: str | bytes, text: str) -> None:
    result = run("generate", "-m", parrot, "-q", *args, stdin=stdin)
    assert (result.code, result.out) == (2, "")
    assert text in result.err
    assert result.err.count("\n") == 1


def test_streamed_pieces_are_whole_characters(endless: Path) -> None:
    """Every write that a reader sees is UTF-8 by itself, though the tokens split characters."""
    with child("generate", "x", "-m", endless, "-q", "-n", 400, stdout=subprocess.PIPE, bufsize=0) as made:
        assert made.stdout is not None
        pieces = []
        while piece := made.stdout.read(65536):
            pieces.append(piece)
        assert made.wait(60) == 0
    assert len(pieces) > 10
    text = "".join(piece.decode("utf-8") for piece in pieces)
    assert "�" not in text
    assert text.startswith(TEXT * 50)


def test_a_locale_without_chinese_does_not_crash(parrot: Path) -> None:
    environment = {"PYTHONIOENCODING": "latin-1"}
    with child("generate", "x", "-m", parrot, "-q", stdout=subprocess.PIPE, env=environment) as made:
        assert made.stdout is not None
        assert made.stdout.read().decode("latin-1") == " Hello, ?? ?!!\n"
        assert made.wait(60) == 0
