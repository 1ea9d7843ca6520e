"""What users of llama-cli, swift infer and PaddleNLP's predictor type; adapters and beams on the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import LLM
from penstock.cli import chat, generate, main
from penstock.cli.prompts import unescaped
from penstock.errors import ConfigError
from penstock.frontend import Frontend, Prompt
from tests import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(argv)
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_file_of_prompts(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    rows = [{"src": "hello", "tgt": "x"}, {"src": ["the cat"], "tgt": ""}, {"prompt": "你好", "id": 3}]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    argv = ["generate", "-q", "--model_name_or_path", str(checkpoint), "--inference_model", "--dtype", "float16",
            "--mode", "static", "--batch_size", "8", "--top_k", "1", "-n", "5", "--data_file", str(source)]  # fmt: skip
    assert run(capsys, *argv, "--output_file", str(target)) == (0, "", "")
    found = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [{k: v for k, v in row.items() if k != "output"} for row in found] == rows
    assert all(isinstance(row["output"], str) for row in found)
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == found
    source.write_text(json.dumps(rows), encoding="utf-8")  # one list
    assert run(capsys, *argv)[1] == out


@pytest.mark.parametrize(
    ("content", "told"),
    [("bad", "line 1 is not JSON"), ('{"src": "a"}\n{"x": 1}', "item 2 is no JSON object"), ("[1]", "item 1"),
     ('{"src": 5}', "must be a text"), ("", "holds no prompt"), ("[", "is not JSON"), ("[]", "holds no prompt")],
)  # fmt: skip
def test_damaged_files_of_prompts(content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.json").write_text(content)
    code, _, err = run(capsys, "generate", "-q", "--data-file", str(tmp_path / "in.json"))
    assert code == 2
    assert told in err


def test_prompts_that_lose_their_beginning(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "-q", "--json", "-m", str(checkpoint), "-n", "1", "hello world, how are you"]
    _, out, _ = run(capsys, *argv, "--src-length", "2")
    assert json.loads(out)["usage"]["prompt_tokens"] == 2
    assert run(capsys, *argv, "--src-length", "0")[0] == 2


def test_beams(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "-q", "--json", "-m", str(checkpoint), "-n", "6", "--ignore-eos", "hello"]
    code, out, _ = run(capsys, *argv, "--num_beams", "3", "--num-return-sequences", "2", "--early-stopping")
    assert code == 0
    assert len(json.loads(out)["outputs"]) == 2
    _, same, _ = run(capsys, *argv, "--num_beams", "3", "--do_sample", "false", "--temperature", "0.3")
    assert json.loads(same)["outputs"][0]["text"] == json.loads(out)["outputs"][0]["text"]
    assert run(capsys, *argv, "--num-beams", "3", "--do-sample", "true")[0] == 2
    assert run(capsys, *argv, "--num-beams", "0")[0] == 2


def test_adapters_by_name_and_by_place(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LLM(checkpoint, dtype="float32", threads=1, kv_cache_memory=1 << 22) as llm:
        kv = llm.model.executor.program.kv
    place = tmp_path / "pre_caches.npy"
    shape = (len(kv), 2, 1, kv[0].kv_heads, 5, kv[0].head_dim)
    np.save(place, np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    argv = ["generate", "-q", "-m", str(checkpoint), "-n", "8", "--temperature", "0", "--ignore-eos", "hello"]
    _, plain, _ = run(capsys, *argv)
    code, tuned, err = run(capsys, *argv, "--adapter", f"tone={place}")
    assert code == 0, err
    assert tuned != plain
    assert run(capsys, *argv, "--prefix_path", str(place), "--export_precache", "true")[1] == tuned
    assert run(capsys, *argv, "--adapters", f"tone={place}", "--adapter", "tone")[1] == tuned
    assert run(capsys, *argv, "--adapters", f"tone={place}")[1] == plain
    code, _, err = run(capsys, *argv, "--adapter", "absent")
    assert code == 2
    assert "absent" in err
    assert run(capsys, *argv, "--lora-path", "./absent")[0] == 3


def test_flags_of_llama_cli() -> None:
    line = "-m x.gguf -n 512 -co -i -if -fa --in-prefix <|im_start|>user\\n --in-suffix <|im_end|>\\n -ngl 0 -e"
    found = chat.parser().read(line.split())
    assert found.max_tokens == 512
    assert found.in_prefix == "<|im_start|>user\\n"
    assert generate.parser().read(["-fa", "on", "--color", "text"]).prompts == ["text"]
    assert generate.parser().read(["-fa", "text"]).prompts == ["text"]
    for argv, told in ((["-ngl", "many"], "number of layers"), (["--cachekv_int8_type", "static"], "not there yet")):
        with pytest.raises(ConfigError, match=told):
            chat.parser().read(argv)


def test_layers_on_a_gpu_are_computed_on_the_cpu_and_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    chat.parser().read(["-ngl", "24"])
    assert "computed on the CPU" in caplog.text


def test_escapes() -> None:
    assert unescaped(r"a\nb\tc\\n\q\"") == 'a\nb\tc\\n\\q"'


def test_a_format_of_messages_from_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Prompt] = []
    (tmp_path / "begin.txt").write_text("You are brief.\n")
    add = Frontend.add

    def watched(self: Frontend, request_id: str, prompt: Prompt, *args: Any, **more: Any) -> None:
        seen.append(prompt)
        add(self, request_id, prompt, *args, **more)

    monkeypatch.setattr(Frontend, "add", watched)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi <|im_end|>\n")))
    argv = ["-m", str(checkpoint), "-q", "-n", "2", "-f", str(tmp_path / "begin.txt"),
            "--in-prefix", r"<|im_start|>U\n", "--in-suffix", r"<|im_end|>\nA: "]  # fmt: skip
    assert main.main(["chat", *argv]) == 0
    capsys.readouterr()
    assert seen[0].text == "You are brief.\n<|im_start|>U\nhi <|im_end|><|im_end|>\nA: "
    assert seen[0].token_ids.count(1) == 1  # the mark of the format is one token, what the user wrote is not
    assert seen[0].token_ids.count(2) == 1
    assert main.main(["chat", *argv, "--chat-template", "chatml"]) == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [("export", "not there yet"), ("quantize", "not there yet: '--quantization int8'"), ("bench", "not there yet"),
     ("controller", "one process serves"), ("llama-server", "did you mean 'serve'"), ("predictor", "--data_file"),
     ("web-ui", "page at /")],
)  # fmt: skip
def test_commands_of_other_engines(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, name)
    assert code == 2
    assert told in err
