"""``langchain-openai`` as a team uses it: chats, streams, tools, structured output, embeddings."""

from __future__ import annotations

import json

import pytest

from tests.server.harness import NAME

langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
messages = pytest.importorskip("langchain_core.messages")

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
ADD = {
    "type": "function",
    "function": {
        "name": "add", "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}  # fmt: skip
PERSON = {
    "title": "person", "description": "somebody", "type": "object", "additionalProperties": False,
    "required": ["name"], "properties": {"name": {"enum": ["Ann", "Bob"]}},
}  # fmt: skip


@pytest.fixture
def chat(talker):
    return langchain_openai.ChatOpenAI(base_url=f"{talker.url}/v1", api_key="EMPTY", model=NAME, max_retries=0)


@pytest.fixture
def free(talker):
    """A model that speaks for itself."""
    talker.free()
    return langchain_openai.ChatOpenAI(
        base_url=f"{talker.url}/v1", api_key="EMPTY", model=NAME, max_retries=0, seed=5, max_tokens=300
    )


def test_a_chat_whole_and_streamed(talker, chat):
    talker.say("Hello, 你好.")
    prompt = [messages.SystemMessage("be kind"), messages.HumanMessage("hi")]
    whole = chat.invoke(prompt)
    assert whole.content == "Hello, 你好."
    assert whole.usage_metadata["output_tokens"] == len(whole.content.encode()) + 1
    assert whole.response_metadata["finish_reason"] == "stop" and whole.response_metadata["model_name"] == NAME
    pieces = list(chat.stream(prompt, stream_usage=True))
    merged = pieces[0]
    for piece in pieces[1:]:
        merged += piece
    assert merged.content == whole.content and len(pieces) > 5
    assert merged.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
    stopped = chat.bind(stop=["你"]).invoke(prompt)
    assert stopped.content == "Hello, "


async def test_many_asynchronous_chats(talker, chat):
    talker.say("ok")
    found = await chat.abatch([[("user", f"number {i}")] for i in range(6)])
    assert [m.content for m in found] == ["ok"] * 6
    assert "".join([piece.content async for piece in chat.astream("hi")]) == "ok"


def test_tools_whole_streamed_and_answered(talker, chat):
    talker.say(CALL)
    agent = chat.bind_tools([ADD])
    found = agent.invoke("1 + 2?")
    (call,) = found.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 1, "b": 2})
    pieces = list(agent.stream("1 + 2?"))
    merged = pieces[0]
    for piece in pieces[1:]:
        merged += piece
    assert [(c["name"], c["args"]) for c in merged.tool_calls] == [("add", {"a": 1, "b": 2})]
    talker.say("3")
    turns = [messages.HumanMessage("1 + 2?"), found, messages.ToolMessage("3", tool_call_id=call["id"])]
    assert agent.invoke(turns).content == "3"


def test_a_tool_that_must_be_called_is(free):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    strict = json.loads(json.dumps(ADD))
    strict["function"]["parameters"] = PERSON
    (call,) = free.bind_tools([strict], tool_choice="add").invoke("x").tool_calls
    assert call["name"] == "add" and call["args"]["name"] in ("Ann", "Bob")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(free, method):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    if method == "json_schema":
        found = free.with_structured_output(PERSON, method=method, strict=True).invoke("who?")
        assert found["name"] in ("Ann", "Bob")
        streamed = list(free.with_structured_output(PERSON, method=method, strict=True).stream("who?"))
        assert streamed[-1] == found
    else:
        found = free.with_structured_output(PERSON, method=method).invoke("who?")
        assert found["name"] in ("Ann", "Bob")


def test_logprobs_and_completions(server):
    chat = langchain_openai.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="EMPTY", model=NAME, logprobs=True, top_logprobs=2, max_tokens=4
    )
    content = chat.invoke("x").response_metadata["logprobs"]["content"]
    assert content and all(len(c["top_logprobs"]) == 2 for c in content)
    plain = langchain_openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", model=NAME, max_tokens=6, seed=1)
    assert "".join(plain.stream("abc")) == plain.invoke("abc")


def test_embeddings(server):
    options = {"base_url": f"{server.url}/v1", "api_key": "EMPTY", "model": NAME}
    made = langchain_openai.OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    one, two = made.embed_documents(["a", "b"])
    assert len(one) == 32 and one != two and made.embed_query("a") == one


def test_errors_are_the_clients_kinds(chat):
    import openai

    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.bind(temperature=-1).invoke("x")
