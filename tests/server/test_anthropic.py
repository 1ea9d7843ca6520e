"""Anthropic's dialect with its official client."""

from __future__ import annotations

import pytest

from tests.server.harness import NAME

anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")

TOOLS = [{"name": "add", "description": "adds", "input_schema": {"type": "object"}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(talker):
    with anthropic.Anthropic(base_url=talker.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message(talker, client):
    talker.say("Hello, you.")
    found = client.messages.create(model=NAME, max_tokens=50, messages=HELLO, system="be kind")
    assert found.content[0].text == "Hello, you." and found.stop_reason == "end_turn" and found.role == "assistant"
    assert found.usage.output_tokens == 12
    cut = client.messages.create(model=NAME, max_tokens=5, messages=HELLO)
    assert cut.content[0].text == "Hello" and cut.stop_reason == "max_tokens"
    stopped = client.messages.create(model=NAME, max_tokens=50, messages=HELLO, stop_sequences=[","])
    assert stopped.content[0].text == "Hello"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ",")


@pytest.mark.parametrize(
    ("thinking", "kinds"),
    [(None, ["thinking", "text"]), ({"type": "enabled", "budget_tokens": 1024}, ["thinking", "text"]),
     ({"type": "disabled"}, ["text"])],
)  # fmt: skip
def test_thoughts_as_they_are_wanted(talker, thinking, kinds):
    talker.say("<think>\nhm\n</think>\n\nWell.")
    body = {"messages": HELLO, "max_tokens": 100, "thinking": thinking}
    assert [b["type"] for b in talker.post("/v1/messages", body).json["content"]] == kinds
    events = talker.post("/v1/messages", {**body, "stream": True}).events
    assert [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"] == kinds
    assert talker.post("/v1/messages", {**body, "thinking": {"type": "sometimes"}}).status == 400


def test_a_stream_with_thoughts_text_and_a_call(talker, client):
    talker.say(f"<think>\nhm\n</think>\n\nWell. {CALL}")
    with client.messages.stream(model=NAME, max_tokens=200, messages=HELLO, tools=TOOLS) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "Well." and final.stop_reason == "tool_use"
    assert [b.type for b in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[2].name == "add" and final.content[2].input == {"a": 1}
    whole = client.messages.create(model=NAME, max_tokens=200, messages=HELLO, tools=TOOLS)
    assert [b.type for b in whole.content] == ["thinking", "text", "tool_use"] and whole.content[2].input == {"a": 1}
    talker.say("One.")
    outcome = {"type": "tool_result", "tool_use_id": final.content[2].id, "content": [{"type": "text", "text": "1"}]}
    content = [b.model_dump(exclude_none=True) for b in final.content]
    turns = [*HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": [outcome]}]
    assert client.messages.create(model=NAME, max_tokens=20, messages=turns, tools=TOOLS).content[0].text == "One."


def test_an_answer_that_is_begun_is_continued(talker, client):
    talker.say(" blue.")
    turns = [*HELLO, {"role": "assistant", "content": "The sky is"}]
    assert client.messages.create(model=NAME, max_tokens=20, messages=turns).content[0].text == " blue."


@pytest.mark.parametrize("stream", [False, True])
def test_a_thread_is_held_between_requests(talker, stream):
    """As the client's tool runner sends it: ``create``, then only what is new."""
    talker.say(f"Well. {CALL}")
    begun = {"messages": HELLO, "max_tokens": 200, "tools": TOOLS, "system": "be kind", "stream": stream}
    answer = talker.post("/v1/messages", {**begun, "thread": {"type": "create"}})
    message = answer.events[0]["message"] if stream else answer.json
    whole = talker.post("/v1/messages", {**begun, "stream": False}).json["content"]
    outcome = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": whole[-1]["id"], "content": "1"}]}
    wish = {
        "max_tokens": 20,
        "thread": {"type": "continue", "previous_message_id": message["id"]},
        "messages": [outcome],
    }
    talker.say("One.")
    found = talker.post("/v1/messages", wish).json
    assert found["content"] == [{"type": "text", "text": "One."}]
    turns = [*HELLO, {"role": "assistant", "content": whole}, outcome]
    usage = talker.post("/v1/messages", {**begun, "messages": turns, "stream": False, "max_tokens": 20}).json["usage"]
    used = found["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == sum(
        usage[k] for k in ("input_tokens", "cache_read_input_tokens")
    )
    wish |= {"thread": {"type": "continue", "previous_message_id": found["id"]}, "messages": HELLO}
    again = talker.post("/v1/messages", wish).json
    assert again["usage"]["input_tokens"] + again["usage"]["cache_read_input_tokens"] > sum(used.values()) - 10


def test_threads_that_are_not_there(talker):
    wish = {"messages": HELLO, "max_tokens": 20, "thread": {"type": "continue", "previous_message_id": "msg_x"}}
    answer = talker.post("/v1/messages", wish)
    assert answer.status == 404 and answer.json["error"]["details"] == {"error_code": "thread_not_found"}
    for more in ({"system": "x"}, {"tools": TOOLS}, {"thread": {"type": "what"}}, {"thread": "x"}):
        assert talker.post("/v1/messages", {**wish, **more}).status == 400


def test_tokens_are_counted(talker, client):
    talker.say("x")
    count = client.messages.count_tokens(model=NAME, messages=HELLO).input_tokens
    found = client.messages.create(model=NAME, max_tokens=2, messages=HELLO).usage
    assert count == found.input_tokens + found.cache_read_input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_clients_ask_for_more_than_the_context_holds(talker, stream):
    """``max_tokens`` is a must there, so they send what their largest model takes."""
    body = {"messages": HELLO, "max_tokens": 64000, "stream": stream}
    talker.say("Hello.")
    answer = talker.post("/v1/messages", body)
    assert answer.status == 200
    last = answer.events[-2]["delta"] if stream else answer.json
    assert last["stop_reason"] == "end_turn"
    talker.say("x" * 2000)
    answer = talker.post("/v1/messages", body)
    last = answer.events[-2]["delta"] if stream else answer.json
    assert last["stop_reason"] == "model_context_window_exceeded"
    long = [{"role": "user", "content": "x" * 2000}]
    assert talker.post("/v1/messages", {**body, "messages": long}).status == 400


def test_errors_are_the_clients_kinds(talker, client):
    with pytest.raises(anthropic.NotFoundError, match="no model"):
        client.messages.create(model="claude", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(model=NAME, max_tokens=5, messages=HELLO, extra_body={"temperature": -1})
    for fields in (
        {}, {"messages": HELLO}, {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 5},
        {"messages": HELLO, "max_tokens": 5, "tools": [{"type": "bash_20250124", "name": "bash"}]},
        {"messages": HELLO, "max_tokens": 5, "tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}},
        {"messages": HELLO, "max_tokens": 5, "tool_choice": {"type": "what"}}, {"messages": [], "max_tokens": 5},
        {"messages": HELLO, "max_tokens": 5, "sytem": "x"}, {"messages": [{"role": "user"}], "max_tokens": 5},
    ):  # fmt: skip
        answer = talker.post("/v1/messages", fields)
        assert answer.status == 400 and answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "invalid_request_error"


def test_its_client_finds_the_requests_id(talker, client):
    talker.say("x")
    assert client.messages.create(model=NAME, max_tokens=5, messages=HELLO)._request_id
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.messages.create(model=NAME, max_tokens=0, messages=HELLO)
    assert wrong.value.request_id == wrong.value.body["request_id"]
    for method, path, status in (("POST", "/v1/messages/batches", 404), ("GET", "/v1/messages", 405)):
        answer = talker.server.request(method, path, {})
        assert answer.status == status and answer.json["type"] == "error"
        assert answer.json["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_documents_of_plain_text_are_read(talker):
    talker.say("x")
    text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abcdef"}, "title": "t"}
    parts = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "abcdef"}]}}
    asked = {"type": "text", "text": "what?"}
    counts = {
        talker.post("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": content}]}).json[
            "input_tokens"
        ]
        for content in ([text, asked], [parts, asked], "abcdef\nwhat?")
    }
    assert len(counts) == 1
    for source in ({"type": "url", "url": "http://x"}, {"type": "base64", "data": "eA=="}, None, {"type": "text"}):
        body = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
        assert talker.post("/v1/messages", body).status == 400


def test_its_client_lists_models(talker, client):
    found = client.models.list()
    assert [(m.type, m.id, m.display_name) for m in found.data] == [("model", NAME, NAME)]
    assert found.data[0].created_at.year > 2000 and not found.has_next_page()
    assert client.models.retrieve(NAME).id == NAME
