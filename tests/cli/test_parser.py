"""Flags: both spellings, other engines' names, the environment, and what is said about a mistake."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import fields

import pytest

from penstock.cli import chat, completion, config, doctor, generate, serve, tokenize
from penstock.cli.options import GROUPS, HELP, OTHER_ENGINES, PREFIX, engine_kwargs, engine_options, origins
from penstock.cli.parser import Parser, size, whole
from penstock.cli.sampling import OPTIONS, SWITCHES, given, params
from penstock.config import from_kwargs
from penstock.errors import ConfigError, RequestError
from penstock.foreign import HARMLESS, ONLY, SYNONYMS
from penstock.types import SamplingParams

PARSERS = {
    m.__name__.rpartition(".")[2]: m.parser for m in (chat, completion, config, doctor, generate, serve, tokenize)
}
VALUES = {
    "dtype": "float32", "kv_cache_dtype": "float16", "block_size": "32", "memory_utilization": "0.3",
    "kv_cache_memory": "1GiB", "hf_overrides": '{"a": 1}', "mode": "dynamic", "executor": "native",
    "max_num_batched_tokens": "256", "max_logits_rows": "256", "max_prefix_share": "0.3", "adapters": "sql=./sql",
    "activation": "float", "watermark_gamma": "0.25", "watermark_delta": "1.5",
}  # fmt: skip
FIELDS = [f for cls in GROUPS.values() for f in fields(cls)]


def engine(*argv: str) -> dict[str, object]:
    parser = Parser("test", "")
    engine_options(parser)
    return engine_kwargs(parser.read(argv))


def value_of(name: str) -> str:
    kind = {f.name: str(f.type) for f in FIELDS}[name]
    return VALUES.get(name, "true" if kind == "bool" else "64" if kind.startswith("int") else "text")


@pytest.mark.parametrize("name", [f.name for f in FIELDS])
def test_every_engine_option_is_a_flag_in_both_spellings(name: str) -> None:
    kebab, value = name.replace("_", "-"), value_of(name)
    expected = engine(f"--{kebab}", value)
    assert list(expected) == [name]
    assert engine(f"--{name}", value) == engine(f"--{name}={value}") == engine(f"--{kebab}={value}") == expected
    from_kwargs(expected)
    assert HELP[name]


def test_the_table_of_help_holds_no_option_that_is_gone() -> None:
    names = {f.name for f in FIELDS}
    assert set(HELP) == names
    assert set(OTHER_ENGINES) <= names
    assert set(OPTIONS) - {"num_beams"} <= {f.name for f in fields(SamplingParams)}


@pytest.mark.parametrize(
    ("synonym", "name"), [*SYNONYMS.items(), *((s, name) for name, all_ in OTHER_ENGINES.items() for s in all_)]
)
def test_other_engines_names(synonym: str, name: str) -> None:
    flag = synonym if synonym.startswith("-") else "--" + synonym
    assert engine(flag, value_of(name)) == engine("--" + name, value_of(name))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-m", "x", "-c", "4096", "-t", "2"], {"model": "x", "max_model_len": 4096, "threads": 2}),
        (["-c4K", "-t2"], {"max_model_len": 4096, "threads": 2}),
        (["--model_id_or_path", "qwen/Qwen-1_8B-Chat"], {"model": "qwen/Qwen-1_8B-Chat"}),
        (["--gpu-memory-utilization", "0.8", "--max-model-len", "888", "--trust-remote-code"],
         {"memory_utilization": 0.8, "max_model_len": 888, "trust_remote_code": True}),
        (["--dtype", "BF16"], {"dtype": "bfloat16"}),
        (["--torch_dtype", "torch.float16"], {"dtype": "float16"}),
        (["--no-enable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--no_enable_prefix_caching"], {"enable_prefix_caching": False}),
        (["--enable_prefix_caching", "false"], {"enable_prefix_caching": False}),
        (["--skip-tokenizer-init"], {"skip_tokenizer_init": True}),
        (["--kv-cache-memory", "1.5GiB"], {"kv_cache_memory": 3 << 29}),
        (["-ngl", "0"], {}), (["-ngl", "24"], {}),
    ],
)  # fmt: skip
def test_what_users_type(argv: list[str], expected: dict[str, object]) -> None:
    assert engine(*argv) == expected


def test_harmless_flags_of_vllm_are_taken_and_more_than_one_device_is_refused() -> None:
    argv = ["--tensor-parallel-size", "1", "--enforce-eager", "--swap-space", "4", "--disable_log_stats"]
    assert set(engine(*argv)) <= {*HARMLESS, *ONLY}
    from_kwargs(engine(*argv))
    with pytest.raises(ConfigError, match="one device"):
        from_kwargs(engine("--tensor_parallel_size", "8"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-modle-len", "3"], r"unknown option '--max-modle-len' \(did you mean '--max-model-len'\?\)"),
        (["--max_modle_len", "3"], r"unknown option '--max_modle_len' \(did you mean '--max-model-len'\?\)"),
        (["--threads", "many"], r"--threads: must be a whole number, got 'many'"),
        (["--kv-cache-memory", "lots"], r"must be a size like 4GiB or 512M, got 'lots'"),
        (["--enable-prefix-caching=perhaps"], r"must be true or false, got 'perhaps'"),
        (["--hf-overrides", "[1]"], r"must be a JSON object"),
        (["--hf-overrides", "{"], r"must be JSON"),
        (["--dtype", "int3"], r"must be one of auto, float32"),
        (["--threads"], r"expected one argument"),
        (["stray"], r"unexpected argument 'stray'"),
        (["-z"], r"unknown option '-z'"),
    ],
)
def test_mistakes_are_told_with_what_to_do(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        engine(*argv)
    assert "penstock test --help" in str(caught.value)


def test_environment_is_below_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "THREADS", "3")
    monkeypatch.setenv(PREFIX + "MAX_MODEL_LEN", "2K")
    monkeypatch.setenv(PREFIX + "ENABLE_PREFIX_CACHING", "off")
    monkeypatch.setenv(PREFIX + "MODEL", "")
    assert engine() == {"threads": 3, "max_model_len": 2048, "enable_prefix_caching": False}
    parser = Parser("test", "")
    engine_options(parser)
    found = origins(parser.read(["--threads", "1"]))
    assert found["threads"] == (1, "--threads")
    assert found["max_model_len"] == (2048, "PENSTOCK_MAX_MODEL_LEN")
    monkeypatch.setenv(PREFIX + "THREADS", "x")
    with pytest.raises(ConfigError, match="PENSTOCK_THREADS: must be a whole number"):
        engine()


@pytest.mark.parametrize("command", PARSERS)
def test_help_is_worth_reading(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = PARSERS[command]()
    with pytest.raises(SystemExit) as caught:
        parser.read(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.startswith(f"usage: penstock {command} ")
    assert f"examples:\n  penstock {command}" in text or command in text.partition("examples:")[2]
    assert max(map(len, text.splitlines())) <= 120
    assert "SUPPRESS" not in text
    for action in parser._actions:
        assert action.help, action.option_strings


@pytest.mark.parametrize("command", PARSERS)
def test_every_example_is_understood(command: str) -> None:
    import shlex

    parser = PARSERS[command]()
    lines = (parser.epilog or "").partition("\n\n")[0].splitlines()[1:]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" | ")[2] if not line.strip().startswith(("penstock", "PENSTOCK")) else line)
        words = words[words.index(command) + 1 :]
        parser.read(list(itertools.takewhile(lambda word: word not in ("|", ">"), words)))


def sampled(*argv: str) -> argparse.Namespace:
    return generate.parser().read(argv)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--temp", "0.3", "--top_p", "0.7", "--repetition_penalty", "1.05", "--do_sample", "true"],
         {"temperature": 0.3, "top_p": 0.7, "repetition_penalty": 1.05, "do_sample": True}),
        (["-n", "5"], {"max_tokens": 5}),
        (["--max_new_tokens", "5"], {"max_tokens": 5}),
        (["--n-predict", "5"], {"max_tokens": 5}),
        (["--stop", "a", "--stop", "b", "--stop-token-ids", "7"], {"stop": ("a", "b"), "stop_token_ids": (7,)}),
        (["--presence-penalty", "-1"], {"presence_penalty": -1.0}),
        (["-s", "4"], {"seed": 4}),
        (["--ignore-eos"], {"ignore_eos": True}),
    ],
)  # fmt: skip
def test_sampling_options(argv: list[str], expected: dict[str, object]) -> None:
    assert given(sampled("prompt", *argv)) == expected


def test_sampling_over_the_checkpoint_s_defaults() -> None:
    defaults = SamplingParams(temperature=0.6, top_k=20)
    made = params(sampled("x", "--top-p", "0.5"), defaults, 99)
    assert (made.temperature, made.top_k, made.top_p, made.max_tokens) == (0.6, 20, 0.5, 99)
    assert params(sampled("x", "--no-do-sample"), defaults, 99).temperature == 0.0
    with pytest.raises(RequestError, match="top_p"):
        params(sampled("x", "--top-p", "7"), defaults, 99)
    assert set(SWITCHES) - {"do_sample"} <= {f.name for f in fields(SamplingParams)}


def test_prompts_may_stand_between_options() -> None:
    args = sampled("one", "--temp", "0", "two", "--chat", "three", "--stats", "four", "--", "--five")
    assert args.prompts == ["one", "two", "three", "four", "--five"]
    assert (args.chat, args.stats) == (True, "auto")
    assert sampled("--stats=both", "-").stats == "both"
    with pytest.raises(ConfigError, match="stats"):
        sampled("--stats=fr", "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("2K", 2048), ("2k", 2048), ("1MB", 1000**2), ("1MiB", 1 << 20), ("1.5G", 3 << 29), ("3 GB", 3 * 10**9),
     ("7B", 7), ("1T", 1 << 40)],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "G", "1X", "-", "1e999", "nan", "1KK"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


def test_whole_numbers() -> None:
    assert [whole(t) for t in ("7", "-1", "4k", "4K", "1M")] == [7, -1, 4000, 4096, 1 << 20]
    for text in ("", "k", "1.5", "0x10", "K4"):
        with pytest.raises(argparse.ArgumentTypeError):
            whole(text)
