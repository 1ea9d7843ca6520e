"""``penstock serve``: its options; and a server that starts, answers and stops."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.cli.serve import HELP, SINGULAR, parser, sampling_defaults, serve_options
from penstock.config import from_kwargs
from penstock.errors import ConfigError, RequestError
from penstock.server.options import ServerOptions, split
from tests.cli.conftest import Run, child
from tests.cli.parrot import HELLO


def options(*argv: str) -> dict[str, object]:
    return serve_options(parser().read(argv))


def test_every_server_option_has_a_flag_with_help() -> None:
    assert set(HELP) == {f.name for f in fields(ServerOptions)}
    shown = parser().format_help()
    for name in HELP:
        assert re.search(rf"--(\[no-\])?{SINGULAR.get(name, name).replace('_', '-')}\b", shown), name


def test_what_users_type() -> None:
    assert options() == {}
    found = options(
        "./model", "--host", "0.0.0.0", "--port", "80", "--api-key", "a", "--api_key", "b", "--served-model-name", "m",
        "--max_model_len", "888", "--gpu-memory-utilization", "0.8", "--trust-remote-code", "--max-body", "1M",
        "--no-log-requests", "--drain-timeout", "5", "--allowed-origin", "http://x",
    )  # fmt: skip
    mine, engine = split(found)
    assert (mine.host, mine.port, mine.api_keys, mine.max_body) == ("0.0.0.0", 80, ("a", "b"), 1 << 20)
    assert (mine.log_requests, mine.drain_timeout, mine.allowed_origins) == (False, 5.0, ("http://x",))
    assert engine == {
        "model": "./model", "served_model_name": "m", "max_model_len": 888, "memory_utilization": 0.8,
        "trust_remote_code": True,
    }  # fmt: skip


def test_admin_keys_and_origins_as_a_list() -> None:
    found = options("--admin-api-key", "a", "--admin_api_key", "b", "--allowed-origins", '["http://x", "http://y"]')
    assert split(found)[0].admin_api_keys == ("a", "b")
    assert split(found)[0].allowed_origins == ("http://x", "http://y")


def test_several_names_and_no_page() -> None:
    found = options("./x", "--served-model-name", "a", "b", "--served_model_name", "c,d", "--no-webui")
    mine, engine = split(found)
    assert engine == {"model": "./x", "served_model_name": "a"}
    assert mine.model_aliases == ("b", "c", "d") and mine.disabled_dialects == ("page",)
    assert split(options("--disable-dialect", "tgi", "--no-webui"))[0].disabled_dialects == ("tgi", "page")
    assert split(options("-a", "x"))[1] == {"served_model_name": "x"}
    assert split(options("--otlp-endpoint", "http://x:4318"))[0].otlp_traces_endpoint == "http://x:4318"


def test_several_models(tmp_path: Path) -> None:
    assert options("--model", "a=./x", "-m", "b=org/y") == {"model": {"a": "./x", "b": "org/y"}}
    assert options("./x", "--model", "./x") == {"model": "./x"}
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert options("--model", str(odd)) == {"model": str(odd)}
    for argv, text in (
        (["--model", "a=x", "--model", "a=y"], "two models are named 'a'"),
        (["--model", "a=x", "--model", "y"], "NAME=MODEL"),
        (["--model", "a="], "no model after"),
        (["--model", "a=x", "--model", "b=y", "--served-model-name", "c"], "is for one model"),
    ):
        with pytest.raises(ConfigError, match=text):
            options(*argv)


def test_sampling_that_requests_start_from() -> None:
    args = parser().read([
        "--model_id_or_path", "m", "--max_new_tokens", "128", "--temperature", "0.3", "--top_p", "0.7",
        "--repetition_penalty", "1.05", "--do_sample", "true", "--seed", "3",
    ])  # fmt: skip
    assert sampling_defaults(args) == {
        "max_tokens": 128, "temperature": 0.3, "top_p": 0.7, "repetition_penalty": 1.05, "do_sample": True,
    }  # fmt: skip
    assert serve_options(args) == {"model": "m", "seed": 3}
    with pytest.raises(RequestError, match="temperature"):
        sampling_defaults(parser().read(["--temperature", "-1"]))


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        ("--enable-auto-tool-choice --tool-call-parser llama3_json --reasoning-parser deepseek_r1 --dtype auto",
         {"tool_call_parser": "llama3_json", "reasoning": True, "dtype": "auto"}),
        ("--disable-log-requests --max-num-queued-reqs 9 --shutdown-timeout 3 --max-num-seqs 8",
         {"log_requests": False, "max_waiting": 9, "drain_timeout": 3.0, "max_num_seqs": 8}),
        ("--model-id x --num-shard 1 --sharded false --max-concurrent-requests 32 --payload-limit 2000000 -p 81 "
         "--hostname ::1 --max-total-tokens 99 --max-batch-prefill-tokens 64 --cuda-graphs 0 --json-output",
         {"model": "x", "max_requests": 32, "max_body": 2000000, "port": 81, "host": "::1", "max_model_len": 99,
          "max_num_batched_tokens": 64, "log_format": "json", "tensor_parallel_size": 1}),
        ("-m x -c 0 -np 4 -b 128 -t 2 -tb 2 -ngl 0 -fa on --jinja -cb --slots --reasoning-format none -to 9",
         {"model": "x", "max_num_seqs": 4, "max_num_batched_tokens": 128, "threads": 2, "reasoning": False,
          "write_timeout": 9.0}),
        ("--infer_backend pt --served_model_name q --max_batch_size 4 --verbose false --tensor_parallel_size 1",
         {"served_model_name": "q", "max_num_seqs": 4, "log_requests": False, "tensor_parallel_size": 1}),
        ("--max-num-queued-tokens 100 --attention-backend FLASH_ATTN --convert auto --api-server-count 1 -O 2 "
         "--structured-outputs-config {} --exclude-tools-when-tool-choice-none", {"max_queued_tokens": 100}),
        ("--graceful-termination-timeout 9 --speculate 0 --watermark-gamma 0.25 --watermark-delta 4 "
         "--master-port 29500 --max-client-batch-size 4 --disable-grammar-support",
         {"drain_timeout": 9.0, "watermark_gamma": 0.25, "watermark_delta": 4.0}),
        ("--fit on --embeddings --no-context-shift --repeat-last-n 64 --mirostat 0 --no-ui --check-tensors --prio 0",
         {"disabled_dialects": ["page"]}),
        ("--stream true --device_map auto --quantization_bit 0 --top_logprobs 3", {}),
    ],
)  # fmt: skip
def test_flags_of_other_servers(argv: str, want: dict[str, object]) -> None:
    found = options(*argv.split())
    assert found == want
    split(found)


@pytest.mark.parametrize(
    ("argv", "text"),
    [(["--num-beams", "2"], "use_beam_search"), (["--ssl-keyfile", "x"], "reverse proxy"),
     (["--max-concurent-requests", "2"], "did you mean '--max-concurrent-requests'"),
     (["--tool-call-parser", "pythonic"], "must be one of"), (["--reasoning-parser", "granite"], "--no-reasoning"),
     (["--allowed-origins", "[1]"], "JSON list"), (["--spec-method", "ngram"], "speculative decoding"),
     (["--grammar", "root ::= x"], "requests say it"), (["-j", "{}"], "requests say it"), (["--ngrok"], "no tunnels"),
     (["--quantization_bit", "4"], "--quantization"), (["--lora", "x.gguf"], "NAME=DIR"),
     (["--mirostat", "2"], "sampler"), (["--middleware", "a.b"], "no code"), (["--system", "x"], "system message")],
)  # fmt: skip
def test_flags_of_other_servers_that_cannot_be_had(argv: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        options(*argv)


def test_more_than_one_device_is_refused() -> None:
    for flag in ("--num-shard", "--tp-size", "--tensor-parallel-size", "--num-gpus"):
        with pytest.raises(ConfigError, match="one device"):
            from_kwargs(options(flag, "2"))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "81")
    monkeypatch.setenv("PENSTOCK_API_KEY", "k")
    assert options("--api-key", "l") == {"port": 81, "api_keys": ["k", "l"]}
    assert options("--port", "82")["port"] == 82
    monkeypatch.setenv("PENSTOCK_PORT", "99999")
    with pytest.raises(ConfigError, match="PENSTOCK_PORT: must be from 0 to 65535"):
        options()


@pytest.mark.parametrize(
    ("argv", "text"),
    [(["--port", "70000"], "65535"), (["--portt", "1"], "did you mean '--port'"), (["a", "b"], "unexpected"),
     (["a", "--model", "b"], "two models"), (["--header-timeout", "x"], "must be a number")],
)  # fmt: skip
def test_mistakes(argv: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        options(*argv)


def test_a_host_that_is_not_here(run: Run, parrot: Path) -> None:
    result = run("serve", parrot, "--host", "no.such.host.invalid")
    assert result.code == 2
    assert "--host" in result.err


def test_a_server_answers_and_stops(parrot: Path) -> None:
    with child("serve", parrot, "--port", 0, "--served-model-name", "polly", stderr=subprocess.PIPE) as made:
        assert made.stderr is not None
        url, seen = "", ""
        while not url:
            line = made.stderr.readline().decode()
            assert line, seen
            seen += line
            url = "".join(re.findall(r"ready at (http://[\d.:]+)", line))
        try:
            assert "memory that can grow" in seen
            body = json.dumps({"model": "polly", "prompt": "x", "max_tokens": 64}).encode()
            request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["choices"][0]["text"] == b"".join(HELLO).decode()
        finally:
            made.send_signal(signal.SIGTERM)
            rest = made.stderr.read().decode()
        assert made.wait(60) == 0, rest
        assert "Traceback" not in rest
