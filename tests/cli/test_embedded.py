"""The commands on the model that comes with penstock, as a newcomer types them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Run, child


def test_generate_needs_nothing_but_a_prompt(run: Run) -> None:
    result = run("generate", "The capital of France is", "--stats=both")
    assert result.code == 0
    assert result.out.startswith(" Paris")
    assert "penstock-demo" in result.err
    assert "输出tokens/s / tokens/s: " in result.err


def test_a_chat_in_two_languages(run: Run) -> None:
    result = run("chat", "-q", stdin="浙江的省会在哪里?\nWhat is the capital of France?\n/stats\n")
    assert result.code == 0
    chinese, english, *figures = result.out.splitlines()
    assert "杭州" in chinese
    assert "Paris" in english
    assert figures[0].startswith("input tokens: ")


def test_dynamic_mode_and_a_batch_say_the_same(run: Run) -> None:
    prompts = ["The capital of France is", "Once upon a time"]
    single = [run("generate", p, "-q", "-n", 24).out for p in prompts]
    assert [run("generate", p, "-q", "-n", 24, "--mode", "dynamic").out for p in prompts] == single
    both = run("generate", *prompts, "-q", "-n", 24).out
    assert both == "".join(f"==> {p} <==\n{text}" for p, text in zip(prompts, single))


def test_chinese_streams_in_whole_characters() -> None:
    with child("generate", "--chat", "浙江的省会在哪里?", "-q", stdout=subprocess.PIPE, bufsize=0) as made:
        assert made.stdout is not None
        pieces = []
        while piece := made.stdout.read(65536):
            pieces.append(piece.decode("utf-8"))
    assert len(pieces) > 1
    assert "杭州" in "".join(pieces)


def test_doctor_finds_the_model_in_order(run: Run) -> None:
    assert "ok    self-test     the embedded model answers" in run("doctor", "--port", 0).out


def test_tokenize(run: Run) -> None:
    assert run("tokenize", "你好", "--count").out.strip().isdigit()


@pytest.mark.parametrize("args", [["generate", "The capital of France is"], ["chat"], ["doctor", "--port", "0"]])
def test_nothing_beyond_the_core_install_is_needed(args: list[str]) -> None:
    extras = [
        "torch",
        "transformers",
        "safetensors",
        "tiktoken",
        "rich",
        "prompt_toolkit",
        "pydantic",
        "fastapi",
        "psutil",
        "gguf",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r}));"
        f"from penstock.cli.main import main; sys.exit(main({args!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], input="hello\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
