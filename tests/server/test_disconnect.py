"""A client that goes away is gone from the engine; a step that fails fails its requests only."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from penstock.errors import ExecutionError
from penstock.server import supervisor
from tests.server.harness import Raw, Server, Wrapped, eventually, open_model

LONG = {"prompt": "hello", "max_tokens": 900, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 900, "ignore_eos": True}


class Brake:
    """Makes each step of an executor take a while, or fail."""

    def __init__(self, executor) -> None:
        self.run, self.seconds, self.error = executor.run, 0.02, None

    def __call__(self, batch):
        time.sleep(self.seconds)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.run(batch)


class Braked(Wrapped):
    def __init__(self, executor) -> None:
        super().__init__(executor)
        self.run = Brake(executor)


@pytest.fixture(scope="module")
def slow(checkpoint):
    model = open_model(checkpoint, max_num_seqs=4, max_num_batched_tokens=16, max_logits_rows=16)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model) as server:
        yield server
    model.close()


def leave(server, path, body, wait_for: bytes = b"") -> None:
    with Raw(server.port) as raw:
        raw.ask("POST", path, body)
        if wait_for:
            assert wait_for in raw.read_until(wait_for)
        else:
            assert eventually(lambda: server.stats.running + server.stats.waiting > 0)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_mid_answer_frees_everything(slow, path, stream, n):
    body = {**(CHAT if "chat" in path else LONG), "stream": stream, "n": n}
    leave(slow, path, body, b"data:" if stream else b"")
    assert eventually(slow.idle, 2)
    made = slow.stats.generation_tokens
    time.sleep(0.1)
    assert slow.stats.generation_tokens == made


def test_leaving_during_prefill_frees_everything(slow):
    leave(slow, "/v1/completions", {"prompt": "a" * 600, "max_tokens": 5})
    assert eventually(slow.idle, 2)


def test_leaving_the_queue_frees_everything(slow):
    with Raw(slow.port) as first, Raw(slow.port) as second:
        first.ask("POST", "/v1/completions", {**LONG, "n": 4})
        assert eventually(lambda: slow.stats.running == 4)
        second.ask("POST", "/v1/completions", {**LONG, "prompt": ["x", "y", "z"]})
        assert eventually(lambda: slow.stats.waiting == 3)
        second.socket.close()
        assert eventually(lambda: slow.stats.waiting == 0, 2)
        assert slow.stats.running == 4
    assert eventually(slow.idle, 2)


def test_a_storm_of_leavers_leaves_nothing(slow):
    def one(i: int) -> None:
        with Raw(slow.port) as raw:
            raw.ask("POST", "/v1/completions", {**LONG, "stream": i % 2 == 0, "n": 1 + i % 2})
            time.sleep(0.002 * (i % 7))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert eventually(slow.idle, 5)
    assert slow.post("/v1/completions", {"prompt": "alive", "max_tokens": 2}).status == 200


def test_a_failing_step_ends_the_stream_with_an_error_event(slow):
    brake = slow.llm.model.engine.executor.run
    with Raw(slow.port) as raw:
        raw.ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        head = raw.read_until(b'"content":"')
        brake.error = ExecutionError("the cat sat on the weights")
        rest = head + raw.rest()
    assert b'data: {"error":{"message":"the cat sat on the weights"' in rest
    assert rest.rstrip().endswith(b"0") and b"data: [DONE]" in rest
    assert eventually(slow.idle, 2)
    brake.error = ExecutionError("again")
    answer = slow.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert answer.status == 500 and answer.error["message"] == "again"
    assert slow.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200


def test_a_full_queue_says_when_to_come_back(checkpoint):
    model = open_model(checkpoint, max_num_seqs=1, max_waiting=1, max_logits_rows=16)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model) as server, Raw(server.port) as first, Raw(server.port) as second:
        first.ask("POST", "/v1/completions", LONG)
        assert eventually(lambda: server.stats.running == 1)
        second.ask("POST", "/v1/completions", LONG)
        assert eventually(lambda: server.stats.waiting == 1)
        answer = server.post("/v1/completions", LONG)
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert answer.error["code"] == "overloaded"
        many = server.post("/v1/completions", {**LONG, "prompt": ["a", "b"]})
        assert many.status == 503
        assert server.stats.waiting == 1
    model.close()


def test_who_watches_is_answered_when_the_server_is_full_or_drains(checkpoint):
    model = open_model(checkpoint)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model, max_requests=1) as server, Raw(server.port) as first:
        first.ask("POST", "/v1/completions", LONG)
        assert eventually(lambda: server.stats.running == 1)
        for draining in (False, True):
            server.state.draining = draining
            assert server.post("/v1/completions", LONG).status == 503
            for path in ("/metrics", "/load", "/version", "/v1/models", "/health"):
                assert server.get(path).status == 200, path
            assert server.get("/load").json["server_load"] == 1, "it does not count itself"
    model.close()


def test_an_engine_that_dies_makes_health_say_so(checkpoint, monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSES", (60.0,))
    model = open_model(checkpoint)
    with Server(model) as server:
        assert server.get("/health").status == 200

        def die() -> list:
            raise SystemError("gone")

        monkeypatch.setattr(model.frontend, "step", die)
        assert server.post("/v1/completions", {"prompt": "a"}).status == 503
        assert server.get("/health").status == 503
        assert server.get("/ready").status == 503
        assert server.get("/live").status == 200
        assert server.post("/v1/completions", {"prompt": "a"}).status == 503
    model.close()


def test_one_client_cannot_take_every_place(checkpoint):
    model = open_model(checkpoint, max_num_seqs=4, max_logits_rows=16)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model, max_requests_per_client=2, api_keys=("a", "b")) as server:
        one, other = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
        with Raw(server.port) as first, Raw(server.port) as second:
            for raw in (first, second):
                raw.ask("POST", "/v1/completions", LONG, one)
            assert eventually(lambda: server.stats.running == 2)
            answer = server.request("POST", "/v1/completions", LONG, one)
            assert answer.status == 429 and answer.headers["retry-after"] and answer.error["type"] == "rate_limit_error"
            short = {"prompt": "a", "max_tokens": 1}
            assert server.request("POST", "/v1/completions", short, other).status == 200
        assert eventually(server.idle, 2)
        assert server.request("POST", "/v1/completions", short, one).status == 200
        assert not server.state.clients
    model.close()


def test_an_answer_that_takes_too_long_is_ended(checkpoint):
    model = open_model(checkpoint, max_num_seqs=4, max_logits_rows=16)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model, request_timeout=0.3) as server:
        answer = server.post("/v1/completions", LONG)
        assert answer.status == 504 and answer.error["code"] == "timeout"
        answer = server.post("/v1/completions", {**LONG, "stream": True})
        assert answer.status == 200 and answer.events[-1]["error"]["code"] == "timeout"
        assert eventually(server.idle, 2)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
    model.close()


def test_a_request_that_waits_too_long_for_its_turn_is_told(checkpoint):
    model = open_model(checkpoint, max_num_seqs=1, max_logits_rows=4)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model, queue_timeout=0.3) as server:
        with Raw(server.port) as first:
            first.ask("POST", "/v1/completions", {**LONG, "stream": True})
            first.read_until(b"data:")
            for stream in (False, True):
                answer = server.post("/v1/completions", {"prompt": "b", "max_tokens": 2, "stream": stream})
                assert b"for its turn" in answer.body
                assert stream or (answer.status == 503 and "retry-after" in answer.headers)
            assert server.stats.running == 1 and server.stats.waiting == 0
        assert eventually(server.idle)
        assert server.post("/v1/completions", {"prompt": "b", "max_tokens": 2}).status == 200
    model.close()


class Poisoned(Wrapped):
    """An executor whose logits are not finite for the prompt that begins with ``z``."""

    def run(self, batch: Any) -> Any:
        output = self._executor.run(batch)
        if batch.sampling is not None:
            for i, row in enumerate(batch.sampling.row):
                at = batch.logits_rows[row]
                output.invalid[i] |= batch.token_ids[at] == ord("z")
        return output


@pytest.mark.parametrize("stream", [False, True])
def test_logits_that_are_not_finite_fail_their_request_alone(checkpoint, stream):
    model = open_model(checkpoint)
    model.model.engine.executor = Poisoned(model.model.executor)
    with Server(model) as server:
        answer = server.post("/v1/completions", {"prompt": ["az", "ab"], "max_tokens": 2, "stream": stream})
        assert b"not finite" in answer.body and (stream or answer.status == 500)
        good = server.post("/v1/completions", {"prompt": "ab", "max_tokens": 2, "stream": stream, "ignore_eos": True})
        assert good.status == 200 and b"not finite" not in good.body
        metrics = server.get("/metrics").body.decode()
        assert 'vllm:request_success_total{finished_reason="error",model_name="tiny"} 1.0' in metrics
        assert eventually(server.idle)
    model.close()
