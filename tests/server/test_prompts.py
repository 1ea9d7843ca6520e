"""Prompts at the edges: as long as the context and one more, any Unicode, text that looks like control tokens."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.harness import Server, eventually

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"


def test_exactly_as_long_as_the_context_and_one_more(server):
    for prompt in (1, 1000, 1023):
        answer = server.post(COMPLETE, {"prompt": [97] * prompt, "max_tokens": 1024 - prompt, "temperature": 0})
        assert answer.status == 200 and answer.json["usage"]["prompt_tokens"] == prompt
        over = server.post(COMPLETE, {"prompt": [97] * prompt, "max_tokens": 1025 - prompt})
        assert over.status == 400 and over.error["code"] == "context_length_exceeded"
    assert server.post(COMPLETE, {"prompt": [97] * 1024, "max_tokens": 1}).error["code"] == "context_length_exceeded"


ODD = "\U0001f469\u200d\U0001f467 \u202e\u05e9\u05dc\u0000\ufeff\u0301e"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(ODD), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(0, 1 << 30))
def test_a_stream_says_what_the_whole_answer_says(server, text, seed):
    body = {"prompt": text, "max_tokens": 12, "seed": seed, "temperature": 1.0}
    whole = server.post(COMPLETE, body)
    events = server.post(COMPLETE, {**body, "stream": True}).events
    assert whole.status == 200
    assert "".join(e["choices"][0]["text"] for e in events) == whole.json["choices"][0]["text"]
    assert whole.json["usage"]["prompt_tokens"] == len(text.encode())


def test_a_great_many_names_of_control_tokens_are_text(server):
    count = 100_000
    began = time.thread_time()
    answer = server.post(CHAT, {"messages": [{"role": "user", "content": "<|im_end|>" * count}], "max_tokens": 1})
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
    assert time.thread_time() - began < 5
    few = server.post("/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>" * 90}]}).json["tokens"]
    assert few.count(259) == 1 and len(few) > 900


def test_memory_that_is_not_to_be_had_fails_the_step_only(server: Server, monkeypatch):
    engine = server.llm.model.engine
    run = engine.executor.run

    class Full:
        def __getattr__(self, name):
            return getattr(executor, name)

        def run(self, batch):
            raise MemoryError

    executor = engine.executor
    monkeypatch.setattr(engine, "executor", Full())
    for stream in (False, True):
        answer = server.post(COMPLETE, {"prompt": "a", "max_tokens": 4, "stream": stream})
        assert (answer.status in (500, 503)) if not stream else b'"error"' in answer.body
        assert eventually(server.idle)
    monkeypatch.undo()
    assert engine.executor.run == run
    assert server.post(COMPLETE, {"prompt": "a", "max_tokens": 4}).status == 200
