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

from penstock.cli.options import take_positional_model
from penstock.cli.serve import HELP, SINGULAR, parser, serve_options
from penstock.errors import ConfigError
from penstock.server.options import ServerOptions, split
from tests.cli.conftest import Run, child
from tests.cli.parrot import HELLO


def options(*argv: str) -> dict[str, object]:
    args = parser().read(argv)
    take_positional_model(args)
    return serve_options(args)


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
