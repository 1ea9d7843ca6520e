"""TGI's own client, ``text-generation``: whole and streamed answers, details, chats, its kinds of errors."""

from __future__ import annotations

import json

import pytest

from tests.server.harness import NAME

tgi = pytest.importorskip("text_generation", reason="the text-generation client is not installed")
errors = pytest.importorskip("text_generation.errors")

pytestmark = pytest.mark.filterwarnings("ignore:The `dict` method is deprecated:DeprecationWarning")
HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture
def client(server):
    return tgi.Client(server.url, timeout=60)


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = client.generate("abc", max_new_tokens=12, do_sample=True, seed=3, top_k=50, temperature=0.9)
    assert whole.details.generated_tokens == len(whole.details.tokens) and whole.details.seed == 3
    events = list(client.generate_stream("abc", max_new_tokens=12, do_sample=True, seed=3, top_k=50, temperature=0.9))
    assert [e.token.id for e in events] == [t.id for t in whole.details.tokens]
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details.finish_reason == whole.details.finish_reason
    assert all(e.generated_text is None and e.details is None for e in events[:-1])


def test_details_of_the_prompt_and_of_the_likeliest_tokens(client):
    found = client.generate("abc", max_new_tokens=4, decoder_input_details=True, top_n_tokens=3).details
    assert [t.text for t in found.prefill] == ["a", "b", "c"] and found.prefill[0].logprob is None
    assert all(t.logprob <= 0 for t in found.prefill[1:])
    assert [len(step) for step in found.top_tokens] == [3] * 4
    assert [step[0].id for step in found.top_tokens] == [t.id for t in found.tokens]


def test_the_best_of_several(client):
    found = client.generate("x", max_new_tokens=6, do_sample=True, best_of=3)
    others = found.details.best_of_sequences
    assert len(others) == 2 and all(isinstance(o.generated_text, str) and o.tokens for o in others)

    def score(tokens) -> float:
        return sum(t.logprob for t in tokens) / len(tokens)

    assert score(found.details.tokens) >= max(score(o.tokens) for o in others)


def test_stops_truncation_and_the_whole_text(talker):
    client = tgi.Client(talker.url)
    talker.say("one two three")
    found = client.generate("abc", stop_sequences=["two"], max_new_tokens=50)
    assert found.generated_text == "one two" and found.details.finish_reason == "stop_sequence"
    assert client.generate("abc", return_full_text=True, max_new_tokens=50).generated_text == "abcone two three"
    assert client.generate("abc", max_new_tokens=50).details.finish_reason == "eos_token"
    cut = client.generate("abcdef", truncate=2, decoder_input_details=True, max_new_tokens=1)
    assert [t.text for t in cut.details.prefill] == ["e", "f"] and cut.details.finish_reason == "length"


def test_a_grammar_is_kept(client):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    found = client.generate("x", max_new_tokens=20, grammar={"type": "regex", "value": "[0-9]{3}-[a-c]"})
    assert len(found.generated_text) == 5 and found.generated_text[3] == "-"
    schema = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": False}
    found = client.generate("x", max_new_tokens=200, grammar={"type": "json", "value": schema})
    assert json.loads(found.generated_text) == {"a": "b"}


def test_chats_whole_and_streamed(talker):
    client = tgi.Client(talker.url)
    talker.say("Hello, you.")
    whole = client.chat(messages=HELLO, max_tokens=40)
    assert whole.choices[0].message.content == "Hello, you." and whole.choices[0].finish_reason == "stop"
    assert whole.usage["completion_tokens"] == 12
    # The client (0.7.0) wants a role in every piece, as TGI's server gives, and JSON in every line.
    pieces = list(client.chat(messages=HELLO, max_tokens=40, stream=True))
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == "Hello, you."
    assert {p.choices[0].delta.role for p in pieces} == {"assistant"}
    talker.say('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    called = client.chat(messages=HELLO, tools=TOOLS, tool_choice="auto", max_tokens=90).choices[0]
    assert called.finish_reason == "tool_calls" and called.message.tool_calls[0]["function"]["name"] == "add"


async def test_the_asynchronous_client(server):
    client = tgi.AsyncClient(server.url, timeout=60)
    whole = await client.generate("abc", max_new_tokens=6)
    pieces = [e async for e in client.generate_stream("abc", max_new_tokens=6)]
    assert pieces[-1].generated_text == whole.generated_text
    chat = await client.chat(messages=HELLO, max_tokens=6, seed=1)
    streamed = [e async for e in await client.chat(messages=HELLO, max_tokens=6, seed=1, stream=True)]
    assert chat.model == NAME
    assert "".join(e.choices[0].delta.content or "" for e in streamed) == (chat.choices[0].message.content or "")


def test_errors_are_the_clients_kinds(client):
    with pytest.raises(errors.ValidationError, match="context"):
        client.generate("abc", max_new_tokens=10**6)
    with pytest.raises(errors.ValidationError, match="truncate"):
        client.generate("abc", truncate=10**6)
    with pytest.raises(errors.ValidationError, match="context"):
        list(client.generate_stream("abc", max_new_tokens=10**6))
