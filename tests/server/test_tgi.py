"""TGI's dialect: its own request word for word, its details, its stream, its errors; huggingface_hub's client."""

from __future__ import annotations

import json
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import InferenceClient

from penstock.errors import OverloadedError
from tests.server.harness import Raw, Server, eventually, open_model

GREEDY = {"max_new_tokens": 12, "details": True}


def test_the_request_of_a_known_benchmark_word_for_word(server):
    body = {
        "inputs": "Who are you?",
        "parameters": {
            "best_of": 1, "temperature": None, "repetition_penalty": None, "top_k": None, "top_p": None,
            "do_sample": False, "return_full_text": False, "stop": [], "truncate": None, "watermark": False,
            "details": False, "decode_input_details": False, "seed": None, "max_new_tokens": 512,
        },
    }  # fmt: skip
    answer = server.request("POST", "/generate", body, {"accept": "application/json"})
    assert answer.status == 200 and set(answer.json) == {"generated_text"}
    assert not answer.json["generated_text"].startswith("Who are you?")
    assert server.post("/generate", body).json == answer.json
    for name in ("x-compute-type", "x-total-time", "x-time-per-token", "x-queue-time", "x-inference-time"):
        assert name in answer.headers
    assert answer.headers["x-prompt-tokens"] == "12"


def test_details(server):
    body = {"inputs": "abc", "parameters": {**GREEDY, "decoder_input_details": True, "top_n_tokens": 2}}
    found = server.post("/generate", body).json
    details = found["details"]
    assert details["finish_reason"] in ("length", "eos_token") and details["seed"] is None
    assert [t["id"] for t in details["prefill"]] == [97, 98, 99] and details["prefill"][0]["logprob"] is None
    assert len(details["tokens"]) == details["generated_tokens"] == len(details["top_tokens"])
    for token, top in zip(details["tokens"], details["top_tokens"]):
        assert set(token) == {"id", "text", "logprob", "special"}
        assert len(top) == 2 and top[0]["id"] == token["id"]
    full = server.post("/generate", {"inputs": "abc", "parameters": {**GREEDY, "return_full_text": True}}).json
    assert full["generated_text"] == "abc" + found["generated_text"]


def test_sampling_has_a_seed_that_repeats_it(server):
    sampled = {**GREEDY, "do_sample": True}
    first = server.post("/generate", {"inputs": "q", "parameters": sampled}).json
    again = {**sampled, "seed": first["details"]["seed"]}
    assert server.post("/generate", {"inputs": "q", "parameters": again}).json == first


@pytest.mark.parametrize("stream", [False, True])
def test_beams(server, stream):
    """``num_beams``, as scripts for transformers send it."""
    options = {"max_new_tokens": 6, "num_beams": 3, "length_penalty": 1.0, "details": True}
    body = {"inputs": "once", "parameters": options}
    found = server.post("/generate_stream", body).events[-1] if stream else server.post("/generate", body).json
    beams = {"prompt": "once", "max_tokens": 6, "use_beam_search": True, "n": 1, "best_of": 3}
    assert found["generated_text"] == server.post("/v1/completions", beams).json["choices"][0]["text"]
    assert found["details"]["seed"] is None
    one = {"inputs": "once", "parameters": {"max_new_tokens": 6, "num_beams": 1}}
    assert server.post("/generate", one).status == 200


def test_best_of(server):
    body = {"inputs": "q", "parameters": {**GREEDY, "do_sample": True, "best_of": 3}}
    details = server.post("/generate", body).json["details"]
    assert len(details["best_of_sequences"]) == 2

    def mean(sequence: dict[str, Any]) -> float:
        scores: list[float] = [t["logprob"] for t in sequence["tokens"]]
        return sum(scores) / len(scores)

    assert all(mean(details) >= mean(other) for other in details["best_of_sequences"])


def test_a_stream_tells_the_same_as_the_whole(server):
    whole = server.post("/generate", {"inputs": "abc", "parameters": GREEDY}).json
    answer = server.post("/generate_stream", {"inputs": "abc", "parameters": GREEDY})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.events
    assert [e["index"] for e in events] == list(range(1, len(events) + 1))
    assert all(e["generated_text"] is None and e["details"] is None for e in events[:-1])
    last = events[-1]
    assert last["generated_text"] == whole["generated_text"]
    assert last["details"]["finish_reason"] == whole["details"]["finish_reason"]
    assert last["details"]["input_length"] == 3
    assert "".join(e["token"]["text"] for e in events if not e["token"]["special"]) == whole["generated_text"]
    assert [e["token"]["id"] for e in events] == [t["id"] for t in whole["details"]["tokens"]]


def test_root_gives_a_list_or_a_stream(server):
    whole = server.post("/", {"inputs": "abc", "parameters": GREEDY}).json
    assert isinstance(whole, list) and len(whole) == 1
    streamed = server.post("/", {"inputs": "abc", "parameters": GREEDY, "stream": True}).events
    assert streamed[-1]["generated_text"] == whole[0]["generated_text"]


def test_a_stop_sequence_is_kept_in_the_text(server):
    text = server.post("/generate", {"inputs": "zz", "parameters": {"max_new_tokens": 30}}).json["generated_text"]
    stop = next(c for c in text if c.isascii())
    body = {"inputs": "zz", "parameters": {"max_new_tokens": 30, "stop": [stop], "details": True}}
    found = server.post("/generate", body).json
    assert found["generated_text"] == text[: text.index(stop) + 1]
    assert found["details"]["finish_reason"] == "stop_sequence"


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"best_of": 2}, "best_of"), ({"best_of": 2, "do_sample": True, "seed": 1}, "seed"),
        ({"temperature": 0}, "temperature"), ({"top_p": 2}, "top_p"), ({"top_k": 0}, "top_k"),
        ({"truncate": 0}, "truncate"), ({"truncate": 10**9}, "truncate"), ({"stop": [""]}, "stop"),
        ({"max_new_tokens": 0}, "max_tokens"), ({"max_new_tokens": 10**9}, "max_tokens"),
        ({"watermark": 1}, "watermark"), ({"watermark": True, "num_beams": 2}, "watermark"),
        ({"typical_p": 0}, "typical_p"), ({"typical_p": 1.5}, "typical_p"), ({"typical_p": 1.0}, "typical_p"),
        ({"top_p": 1.0}, "top_p"), ({"frequency_penalty": 2.1}, "frequency_penalty"), ({"best_of": 0}, "best_of"),
        ({"grammar": {"type": "regex", "value": 5}}, "grammar"),
        ({"seed": "x"}, "seed"), ({"max_new_token": 3}, "max_new_tokens"), ({"adapter_id": "x"}, "adapter_id"),
        ({"num_beams": 2, "do_sample": True}, "num_beams"), ({"num_beams": 2, "best_of": 2}, "best_of"),
        ({"length_penalty": 2.0}, "length_penalty"), ({"num_beams": 10**6}, "best_of"),
    ],
)  # fmt: skip
def test_errors_are_in_tgis_form(server, parameters, word):
    answer = server.post("/generate", {"inputs": "a", "parameters": parameters})
    assert answer.status == 422 and set(answer.json) == {"error", "error_type"}
    assert word in answer.json["error"] and answer.json["error_type"] == "validation"


def test_a_watermark_is_made(server):
    """Greedy or drawn, whole, streamed and with best_of; the same one under OpenAI's route."""
    parameters = {"max_new_tokens": 60, "watermark": True, "do_sample": True, "seed": 7, "details": True}
    body = {"inputs": "abc", "parameters": parameters}
    whole = server.post("/generate", body).json
    plain = server.post("/generate", {"inputs": "abc", "parameters": {**parameters, "watermark": False}}).json
    assert whole["generated_text"] != plain["generated_text"]
    assert server.post("/generate_stream", body).events[-1]["generated_text"] == whole["generated_text"]
    ours = {"prompt": "abc", "max_tokens": 60, "temperature": 1, "seed": 7, "watermark": True, "ignore_eos": False}
    assert server.post("/v1/completions", ours).json["choices"][0]["text"] == whole["generated_text"]
    drawn = {"max_new_tokens": 60, "watermark": True, "do_sample": True, "best_of": 2, "details": True}
    both = server.post("/generate", {"inputs": "abc", "parameters": drawn}).json["details"]
    assert len(both["best_of_sequences"]) == 1
    greedy = {"max_new_tokens": 30, "watermark": True}
    assert server.post("/generate", {"inputs": "abc", "parameters": greedy}).status == 200


def test_its_clients_chats_end_without_a_word(server):
    """``[DONE]`` is no JSON, for which the text-generation client takes every line. It writes out every field."""
    body = {"model": "tgi", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True}
    assert server.post("/v1/chat/completions", body).body.endswith(b"data: [DONE]\n\n")
    mine = server.post("/v1/chat/completions", {**body, "logit_bias": None, "repetition_penalty": None, "seed": 3})
    assert mine.status == 200 and b"[DONE]" not in mine.body and mine.events[-1]["choices"][0]["finish_reason"]


def test_vertex_gives_the_texts(server):
    """Google's envelope: one text for each instance."""
    texts = [server.post("/generate", {"inputs": p, "parameters": GREEDY}).json["generated_text"] for p in ("abc", "x")]
    body = {"instances": [{"inputs": p, "parameters": GREEDY} for p in ("abc", "x")]}
    assert server.post("/vertex", body).json == {"predictions": texts}
    assert server.post("/vertex", {}).status == 422
    for instances in ("[]", "[{}]", "[3]", '[{"inputs": ""}]'):
        answer = server.post("/vertex", b'{"instances": %s}' % instances.encode())
        assert answer.status == 422 and answer.json["error_type"] == "validation", instances


def test_details_come_with_the_prompts_tokens_and_a_streams_headers_tell_of_it(server):
    body = {"inputs": "abc", "parameters": {**GREEDY, "decoder_input_details": True}}
    assert len(server.post("/generate", body).json["details"]["prefill"]) == 3
    headers = server.post("/generate_stream", {"inputs": "abc", "parameters": GREEDY}).headers
    assert headers["x-compute-type"] == "cpu" and headers["x-compute-characters"] == "3"


def test_typical_p_draws_among_typical_tokens(server):
    said = {"max_new_tokens": 8, "details": True}
    drawn = [
        server.post("/generate", {"inputs": "abc", "parameters": {**said, "typical_p": p, "seed": 5}}).json
        for p in (0.05, 0.05, 0.99)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0]["details"]["seed"] == 5, "it asks for sampling"
    assert drawn[0]["generated_text"] != drawn[2]["generated_text"]
    off = server.post("/generate", {"inputs": "abc", "parameters": {**said, "typical_p": None, "seed": 5}}).json
    assert off == server.post("/generate", {"inputs": "abc", "parameters": said}).json


def test_other_errors(server):
    assert server.post("/generate", {"inputs": ""}).status == 422
    assert server.post("/generate", {}).status == 422
    assert server.post("/generate", b"{").status == 422
    assert server.post("/generate", {"inputs": "a", "model": "other"}).status == 404
    best = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
    assert server.post("/generate_stream", best).status == 422
    assert server.post("/", {}).status == 400


def test_a_full_queue_is_429(checkpoint, monkeypatch):
    model = open_model(checkpoint, max_num_seqs=1, max_waiting=1, max_logits_rows=16)

    def full(*args, **options):
        raise OverloadedError("full")

    with Server(model) as server:
        with monkeypatch.context() as patch:
            patch.setattr(model.model.engine, "add", full)
            answer = server.post("/generate", {"inputs": "a"})
        assert answer.status == 429 and answer.json["error_type"] == "overloaded" and answer.headers["retry-after"]
        assert server.post("/generate", {"inputs": "a"}).status == 200
    model.close()


def test_info_and_tokens(server):
    info = server.get("/info").json
    assert info["model_id"] == "tiny" and info["max_total_tokens"] == 1024
    found = server.post("/tokenize", {"inputs": "ab"}).json
    assert found == [{"id": 97, "text": "a", "start": 0, "stop": 1}, {"id": 98, "text": "b", "start": 1, "stop": 2}]
    chat = server.post("/chat_tokenize", {"messages": [{"role": "user", "content": "x"}]}).json
    assert chat["templated_text"].startswith("<|im_start|>user\nx") and chat["tokenize_response"][0]["id"] == 258


def test_the_official_client(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it calls this machine only
    client = InferenceClient(server.url)
    whole = client.text_generation("abc", max_new_tokens=8, details=True)
    assert whole.details.generated_tokens == len(whole.details.tokens)
    pieces = list(client.text_generation("abc", max_new_tokens=8, details=True, stream=True))
    assert pieces[-1].generated_text == whole.generated_text
    assert client.text_generation("abc", max_new_tokens=8) == whole.generated_text
    chat = client.chat_completion([{"role": "user", "content": "hi"}], max_tokens=5)
    assert chat.choices[0].message.role == "assistant"
    streamed = client.chat_completion([{"role": "user", "content": "hi"}], max_tokens=5, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) is not None


def test_leaving_frees(server):
    with Raw(server.port) as raw:
        raw.ask("POST", "/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 900}})
        raw.read_until(b"data:")
    assert eventually(server.idle)


def test_the_plain_demo(server):
    found = server.post("/", {"prompt": "你好"}).json
    assert set(found) == {"response", "status", "time"} and found["status"] == 200
    assert len(found["time"]) == len("2024-01-01 00:00:00")
    more = {"prompt": "b", "history": [["a", "x"]], "max_length": 3, "temperature": 0.5, "top_p": 0.9}
    assert len(json.dumps(server.post("/", more).json["response"])) < 40
    assert server.post("/", {"prompt": "b", "histry": []}).status == 400
    assert server.post("/", {"prompt": "b", "max_length": 10**9}).status == 400


def test_a_dialect_can_be_switched_off(llm):
    with Server(llm, disabled_dialects=("tgi", "demo")) as server:
        assert server.post("/generate", {"inputs": "a"}).status == 404
        assert server.post("/", {"inputs": "a"}).status == 400
        assert server.post("/", {"prompt": "a"}).status == 400
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
