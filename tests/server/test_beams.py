"""Beam search over OpenAI's dialect, with vLLM's names."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.server.state import State
from penstock.types import SamplingParams
from tests.server.harness import NAME, Server, eventually, open_model
from tests.server.test_disconnect import Braked, leave

openai = pytest.importorskip("openai")
BODY = {"model": NAME, "prompt": "once", "max_tokens": 6, "use_beam_search": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


def complete(server: Server, **more: Any) -> Any:
    answer = server.post("/v1/completions", {**BODY, **more})
    assert answer.status == 200, answer.json
    return answer.json


def test_the_best_answers_come_in_order(server):
    found = complete(server, n=3, logprobs=1)
    sums = [sum(c["logprobs"]["token_logprobs"]) for c in found["choices"]]
    assert [c["index"] for c in found["choices"]] == [0, 1, 2]
    assert sums == sorted(sums, reverse=True)
    assert len({tuple(c["logprobs"]["tokens"]) for c in found["choices"]}) == 3
    assert found["usage"]["completion_tokens"] == 18
    best = complete(server, n=1, best_of=3)
    assert [c["text"] for c in best["choices"]] == [found["choices"][0]["text"]]


def test_one_beam_is_greedy(server):
    greedy = server.post("/v1/completions", {**BODY, "use_beam_search": False, "temperature": 0}).json
    assert complete(server, n=1)["choices"][0]["text"] == greedy["choices"][0]["text"]


def test_a_checkpoints_temperature_is_no_hindrance(server, monkeypatch):
    def warm(self, served, max_tokens):
        return SamplingParams(temperature=0.6, top_p=0.9, top_k=20, max_tokens=max_tokens)

    wanted = complete(server, n=2)
    monkeypatch.setattr(State, "default_params", warm)
    assert complete(server, n=2)["choices"] == wanted["choices"]


def test_a_stream_brings_all_at_the_end(client):
    options = {"model": NAME, "prompt": ["once", "twice"], "max_tokens": 6, "n": 2, "best_of": 3}
    extra = {"use_beam_search": True, "length_penalty": 0.5, "early_stopping": "never"}
    whole = client.completions.create(**options, extra_body=extra)
    texts = [""] * 4
    for chunk in client.completions.create(**options, stream=True, extra_body=extra):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in whole.choices]


def test_chat(client):
    options = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "n": 2}
    whole = client.chat.completions.create(**options, extra_body={"use_beam_search": True})
    assert len(whole.choices) == 2
    texts = ["", ""]
    for chunk in client.chat.completions.create(**options, stream=True, extra_body={"use_beam_search": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [c.message.content for c in whole.choices]


def test_structured_output_with_beams(server):
    found = complete(server, n=4, structured_outputs={"choice": ["yes", "no"]}, ignore_eos=False, stream=False)
    assert {c["text"] for c in found["choices"]} == {"yes", "no"}


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.7), ("top_p", 0.5), ("top_k", 5), ("presence_penalty", 1), ("n", 17)]
)
def test_what_has_no_meaning_with_beams_is_refused_by_name(server, name, value):
    answer = server.post("/v1/completions", {**BODY, name: value})
    assert answer.status == 400
    assert answer.json["error"]["param"] == name


def test_beams_whose_client_is_gone_are_freed(checkpoint):
    model = open_model(checkpoint, max_num_batched_tokens=16, max_logits_rows=16)
    model.model.engine.executor = Braked(model.model.executor)
    with Server(model) as server:
        body = {**BODY, "n": 4, "max_tokens": 900}
        leave(server, "/v1/completions", body)
        assert eventually(lambda: server.stats.running == server.stats.waiting == server.stats.blocks_used == 0)
    model.close()
