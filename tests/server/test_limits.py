"""Clients that are slow, large, many, or not who they say."""

from __future__ import annotations

import gzip
import socket
import time

import pytest

from tests.server.harness import Raw, Server, eventually, open_model, parse_answer

BODY = {"prompt": "a", "max_tokens": 1}


@pytest.fixture(scope="module")
def strict(llm):
    """A server with little patience."""
    with Server(
        llm, max_body=100_000, max_header=8192, header_timeout=0.4, body_timeout=0.5, keep_alive=1.0, write_timeout=0.5,
        max_connections=50,
    ) as server:  # fmt: skip
        yield server


def closed_within(raw: Raw, seconds: float) -> bytes:
    """What comes until the server closes; fails if it does not."""
    raw.socket.settimeout(seconds)
    try:
        return raw.rest()
    except ConnectionError:
        return b""


def test_connections_that_say_nothing_are_closed(strict):
    with Raw(strict.port) as raw:
        assert closed_within(raw, 3) == b""


def test_half_a_header_is_closed(strict):
    with Raw(strict.port) as raw:
        raw.socket.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
        assert closed_within(raw, 3) == b""


def test_half_a_header_after_a_whole_request_is_closed(strict):
    with Raw(strict.port) as raw:
        raw.ask("GET", "/health", headers={"Connection": "keep-alive"})
        assert b"200" in raw.read_until(b'"ok"}')
        raw.socket.sendall(b"GET /hea")
        assert closed_within(raw, 3) == b""


def test_drops_of_a_header_do_not_buy_time(strict):
    with Raw(strict.port) as raw:
        began = time.monotonic()
        try:
            raw.socket.sendall(b"GET /health HTTP/1.1\r\n")
            while time.monotonic() - began < 5:
                raw.socket.sendall(b"a")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - began < 3


def test_half_a_body_is_told_and_closed(strict):
    with Raw(strict.port) as raw:
        raw.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 500\r\n\r\n{"prompt": '
        )
        answer = parse_answer(closed_within(raw, 3))
    assert answer.status == 408 and answer.error["code"] == "timeout"


def test_a_header_of_a_megabyte_is_refused(strict):
    with Raw(strict.port) as raw:
        try:
            raw.socket.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * (1 << 20) + b"\r\n\r\n")
        except OSError:
            return
        assert not closed_within(raw, 3).startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize("size", [100_001, 300_000])
def test_a_body_too_large_is_told(strict, size):
    answer = strict.post("/v1/completions", b" " * size)
    assert answer.status == 413 and "100000" in answer.error["message"]


def test_a_chunked_body_too_large_is_told(strict):
    with Raw(strict.port) as raw:
        raw.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(200):
            raw.socket.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        raw.socket.sendall(b"0\r\n\r\n")
        assert parse_answer(closed_within(raw, 3)).status == 413


def test_a_body_in_single_bytes_is_read(strict):
    body = b'{"prompt": "a", "max_tokens": 1}'
    with Raw(strict.port) as raw:
        raw.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        raw.socket.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert parse_answer(closed_within(raw, 5)).status == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x80\x04\x95cos\nsystem\n",
        b"\r\n" * 50,
    ],
)
def test_what_is_no_http_is_closed(strict, junk):
    with Raw(strict.port) as raw:
        raw.socket.sendall(junk)
        assert not closed_within(raw, 3).startswith(b"HTTP/1.1 2")
    assert strict.get("/health").status == 200


def test_bad_chunks_are_closed(strict):
    with Raw(strict.port) as raw:
        raw.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"
        )
        assert b"HTTP/1.1 2" not in closed_within(raw, 3)


def test_pipelined_requests_and_http_1_0(strict):
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Raw(strict.port) as raw:
        raw.socket.sendall(one * 3 + b"GET /version HTTP/1.0\r\n\r\n")
        assert closed_within(raw, 5).count(b"HTTP/1.1 200") == 4


def test_connections_beyond_the_cap_are_told_and_room_comes_back(strict):
    idle = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(60)]
    try:
        assert eventually(lambda: len(strict.uvicorn.server_state.connections) == 50, 2)
        answer = strict.get("/health")
        assert answer.status == 503 and answer.headers["retry-after"] and answer.error["code"] == "overloaded"
    finally:
        assert eventually(lambda: strict.get("/health").status == 200, 5)
        for each in idle:
            each.close()


def test_a_thousand_idle_connections_do_not_stop_the_others(server):
    idle = []
    before = len(server.uvicorn.server_state.connections)  # clients of other tests keep theirs for a while
    try:
        for _ in range(1000):
            idle.append(socket.create_connection(("127.0.0.1", server.port)))
        assert server.post("/v1/completions", BODY).status == 200
    finally:
        for each in idle:
            each.close()
    assert eventually(lambda: len(server.uvicorn.server_state.connections) <= before, 5)


def test_a_reader_that_does_not_read_is_dropped(checkpoint):
    model = open_model(checkpoint, max_num_seqs=16)
    with Server(model, write_timeout=0.4) as server, Raw(server.port) as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = {"prompt": ["a"] * 200, "max_tokens": 900, "n": 8, "ignore_eos": True, "stream": True, "logprobs": 20}
        raw.ask("POST", "/v1/completions", body)
        assert eventually(lambda: len(server.state.tasks) == 1)
        assert eventually(lambda: not server.state.tasks, 30)
        assert eventually(server.idle, 5)
        assert server.state.metrics.disconnects == 1
    model.close()


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:80", "[::1]:5", "LOCALHOST"])
def test_names_of_this_machine_are_served(server, host):
    assert server.get("/version", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil"])
def test_foreign_hosts_are_not_served_on_loopback(server, host):
    assert server.get("/version", Host=host).status == 403


@pytest.mark.parametrize("host", ["a/health?x=", "a b", "", "a@b", "[::1", "x:99999999"])
def test_malformed_hosts_are_refused(server, host):
    assert server.get("/version", Host=host).status == 400


def test_pages_of_other_origins_may_not_call_unless_named(server, llm):
    mine = f"http://127.0.0.1:{server.port}"
    assert server.get("/version", Origin=mine).status == 200
    answer = server.get("/version", Origin="https://evil.example")
    assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
    with Server(llm, allowed_origins=("https://good.example",)) as open_server:
        answer = open_server.get("/version", Origin="https://good.example")
        assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://good.example"
        assert open_server.get("/version", Origin="https://evil.example").status == 403


def test_a_compressed_body_is_told(server):
    data = gzip.compress(b'{"prompt": "a"}')
    for path in ("/v1/completions", "/api/chat"):
        answer = server.request("POST", path, data, {"Content-Encoding": "gzip", "Content-Length": str(len(data))})
        assert answer.status == 415 and b"without encoding" in answer.body
    plain = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, Content_Encoding="identity")
    assert plain.status == 200
