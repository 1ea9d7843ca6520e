"""Ollama's dialect with its official client."""

from __future__ import annotations

import json

import pytest

from tests.server.harness import NAME

ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["who"],
    "properties": {"who": {"enum": ["Ann", "Bob"]}},
}  # fmt: skip
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(talker):
    return ollama.Client(host=talker.url)


def test_chat_whole_and_streamed(talker, client):
    talker.say("Hello, you.")
    found = client.chat(model=NAME, messages=HELLO)
    assert found.message.content == "Hello, you." and found.done and found.done_reason == "stop"
    assert found.eval_count == 12 and found.prompt_eval_count > 5 and found.total_duration > 0
    parts = list(client.chat(model=f"{NAME}:latest", messages=HELLO, stream=True, options={"num_predict": 5}))
    assert "".join(p.message.content for p in parts) == "Hello"
    assert parts[-1].done and parts[-1].done_reason == "length" and not parts[0].done


def test_generate(talker, client):
    talker.say("a story")
    found = client.generate(model=NAME, prompt="tell", system="be brief", options={"stop": ["y"], "num_ctx": 512})
    assert found.response == "a stor"
    parts = list(client.generate(model=NAME, prompt="tell", raw=True, stream=True))
    assert "".join(p.response for p in parts) == "a story" and parts[-1].eval_count == 8
    assert client.generate(model=NAME).done_reason == "load"


def test_tools_and_thinking(talker, client):
    talker.say('<think>\nhm\n</think>\n\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    found = client.chat(model=NAME, messages=HELLO, tools=TOOLS, think=True)
    assert found.message.thinking == "hm"
    assert found.message.tool_calls[0].function.arguments == {"a": 1}
    plain = client.chat(model=NAME, messages=HELLO, think=False)
    assert plain.message.content.startswith("<think>")


def test_tools_streamed(talker, client):
    talker.say('Sure. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    parts = list(client.chat(model=NAME, messages=HELLO, tools=TOOLS, stream=True))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert "".join(p.message.content or "" for p in parts) == "Sure." and parts[-1].done
    assert [(c.function.name, dict(c.function.arguments)) for c in calls] == [("add", {"a": 1})]
    talker.say("One.")
    turns = [
        *HELLO, {"role": "assistant", "content": "", "tool_calls": [c.model_dump() for c in calls]},
        {"role": "tool", "content": "1", "tool_name": "add"},
    ]  # fmt: skip
    assert client.chat(model=NAME, messages=turns, tools=TOOLS).message.content == "One."


@pytest.mark.parametrize("raw", [True, False])
def test_an_answer_has_the_format_that_was_asked_for(server, raw):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    client = ollama.Client(host=server.url)
    options = {"num_predict": 300, "seed": 4}
    found = client.generate(model=NAME, prompt="x", raw=raw, format=SCHEMA, options=options)
    assert json.loads(found.response) in ({"who": "Ann"}, {"who": "Bob"})
    chat = client.chat(model=NAME, messages=HELLO, format=SCHEMA, options=options)
    assert json.loads(chat.message.content) in ({"who": "Ann"}, {"who": "Bob"})
    parts = client.chat(model=NAME, messages=HELLO, format=SCHEMA, options=options, stream=True)
    assert "".join(p.message.content for p in parts) == chat.message.content


def test_what_is_served(talker, client):
    assert [m.model for m in client.list().models] == [NAME]
    assert [m.model for m in client.ps().models] == [NAME]
    shown = client.show(NAME)
    assert shown.modelinfo["llama.context_length"] == 1024
    assert shown.capabilities == ["completion", "tools", "thinking", "embedding"]
    assert isinstance(talker.server.get("/api/version").json["version"], str)


def test_more_tokens_than_the_context_holds(talker):
    """``num_predict`` ends where the context does, as Ollama's own."""
    talker.say("x" * 2000)
    options = {"num_predict": 50000, "num_ctx": 100000}
    for path, body in (
        ("chat", {"messages": HELLO}),
        ("generate", {"prompt": "a"}),
        ("generate", {"prompt": "a", "raw": True}),
    ):
        found = talker.post(f"/api/{path}", {"model": NAME, "stream": False, "options": options, **body})
        assert found.status == 200 and found.json["done_reason"] == "length"
        assert found.json["prompt_eval_count"] + found.json["eval_count"] == 1024


def test_the_oldest_messages_are_left_out(talker):
    """As Ollama does unless ``truncate`` is false; what the system says stays."""
    talker.say("ok")
    said = [{"role": r, "content": str(i) + "x" * 200} for i in range(8) for r in ("user", "assistant")]
    body = {"model": NAME, "stream": False, "messages": [{"role": "system", "content": "be kind"}, *said, *HELLO]}
    found = talker.post("/api/chat", body).json
    assert found["message"]["content"] == "ok" and 400 < found["prompt_eval_count"] < 1024
    assert talker.post("/api/chat", {**body, "truncate": False}).status == 400
    short = talker.post("/api/chat", {**body, "messages": HELLO, "truncate": True, "shift": True}).json
    assert short["prompt_eval_count"] < 60
    one = [{"role": "user", "content": "x" * 3000}]
    assert talker.post("/api/chat", {**body, "messages": one}).status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(talker, stream):
    talker.say("<think>\nhm\n</think>\n\nWell.")
    body = {"model": NAME, "stream": stream, "logprobs": True, "top_logprobs": 2}
    for path, more in (
        ("chat", {"messages": HELLO}),
        ("generate", {"prompt": "a"}),
        ("generate", {"prompt": "a", "raw": True}),
    ):
        answer = talker.post(f"/api/{path}", {**body, **more})
        lines = [json.loads(line) for line in answer.body.splitlines()] if stream else [answer.json]
        told = [each for line in lines for each in line.get("logprobs", [])]
        assert "".join(each["token"] for each in told).endswith("Well.")
        assert all(len(each["top_logprobs"]) == 2 and each["logprob"] <= 0 for each in told)
        assert more.get("raw") or len(told) == 5
    assert talker.post("/api/chat", {**body, "messages": HELLO, "top_logprobs": 21}).status == 400


def test_durations_add_up(talker):
    talker.say("abc")
    found = talker.post("/api/generate", {"model": NAME, "prompt": "x", "stream": False}).json
    assert found["total_duration"] >= found["prompt_eval_duration"] + found["eval_duration"] > 0
    unlimited = talker.post(
        "/api/generate", {"model": NAME, "prompt": "x", "stream": False, "options": {"num_predict": 0}}
    )
    assert unlimited.json["response"] == "abc"


def test_errors(talker, client):
    with pytest.raises(ollama.ResponseError, match="no model 'other'") as missing:
        client.chat(model="other", messages=HELLO)
    assert missing.value.status_code == 404
    assert talker.post("/api/chat", {"model": NAME, "messages": HELLO, "format": "yaml"}).status == 400
    with pytest.raises(ollama.ResponseError, match="images"):
        client.generate(model=NAME, prompt="x", images=[b"abc"])
    for options in ({"temperature": -1}, {"mirostat": 2}, {"num_predict": -9}, {"tempreture": 1}, {"top_k": "x"}):
        answer = talker.post("/api/chat", {"model": NAME, "messages": HELLO, "options": options})
        assert answer.status == 400 and isinstance(answer.json["error"], str)
    with pytest.raises(ollama.ResponseError, match="not managed"):
        client.pull("llama3")
    # Ollama's users send bodies without a content type.
    assert talker.server.post("/api/show", {"model": NAME}, Content_Type="text/plain").status == 200
