"""Tool calls in every family's format, streamed at any cut as in one piece; reasoning apart from the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.server.tools.arguments import python_arguments
from penstock.server.tools.formats import FORMATS, detect
from penstock.server.tools.pieces import Text, ToolCall
from tests.server.harness import NAME

NAMES = ("get_weather", "add")
PARIS = ("get_weather", {"city": "Paris"})
SUM = ("add", {"a": 1, "b": [2, "x"]})
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "add", "description": "adds"}},
]


def js(call: tuple[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]})


CASES = [
    ("hermes", f"<tool_call>\n{js(PARIS)}\n</tool_call>", "", [PARIS]),
    ("hermes", f"Sure.\n<tool_call>{js(PARIS)}</tool_call>\n<tool_call>{js(SUM)}</tool_call>", "Sure.", [PARIS, SUM]),
    ("hermes", f"<tool_call>{js(PARIS)}", "", [PARIS]),
    ("hermes", "a < b <tool <tool_call>not json</tool_call>!", "a < b <tool <tool_call>not json</tool_call>!", []),
    ("hermes", "no calls at all <tool_", "no calls at all <tool_", []),
    ("llama3_json", js(PARIS, "parameters"), "", [PARIS]),
    ("llama3_json", f"<|python_tag|>{js(PARIS, 'parameters')}", "", [PARIS]),
    ("llama3_json", f" {js(PARIS, 'parameters')}; {js(SUM, 'parameters')}", "", [PARIS, SUM]),
    ("llama3_json", '{"answer": 5}', '{"answer": 5}', []),
    ("llama3_json", '{"name": "half', '{"name": "half', []),
    ("llama3_json", "Paris is nice", "Paris is nice", []),
    ("mistral", f"[TOOL_CALLS][{js(PARIS)}, {js(SUM)}]", "", [PARIS, SUM]),
    ("mistral", f"[TOOL_CALLS]add[ARGS]{json.dumps(SUM[1])}", "", [SUM]),
    ("mistral", "hello [TOOL_", "hello [TOOL_", []),
    ("glm", 'get_weather\n{"city": "Paris"}', "", [PARIS]),
    ("glm", "get_weather\n```python\ntool_call(city='Paris')\n```", "", [PARIS]),
    ("glm", "get out\nof here", "get out\nof here", []),
    ("glm", "get_weather\nin Paris is fine", "get_weather\nin Paris is fine", []),
]  # fmt: skip


def parse(kind: str, parts: Sequence[str]) -> tuple[str, list[Any]]:
    parser = FORMATS[kind](NAMES)
    pieces = [p for part in parts for p in parser.feed(part)] + parser.finish()
    text = "".join(p.text for p in pieces if isinstance(p, Text))
    return text, [(p.name, json.loads(p.arguments)) for p in pieces if isinstance(p, ToolCall)]


@pytest.mark.parametrize(("kind", "text", "content", "calls"), CASES)
def test_each_format_whole_and_in_every_cut(kind, text, content, calls):
    assert parse(kind, [text]) == (content, calls)
    assert parse(kind, list(text)) == (content, calls)
    for cut in range(len(text)):
        assert parse(kind, [text[:cut], text[cut:]]) == (content, calls)


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.sampled_from([
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "{", "}", '"name"', ":", '"add"', "add", "\n", " ", "[",
    "<|python_tag|>", "tool_call(", "=", "'", ",", "x", "é",
]), max_size=20))  # fmt: skip
def test_no_text_is_lost_or_invented(kind, parts):
    text, calls = parse(kind, parts)
    assert parse(kind, ["".join(parts)]) == (text, calls)
    if not calls:
        assert text.split() == "".join(parts).split() or kind == "hermes"


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize(
    "unit", ["<tool_call>", "<tool_call", '{"name":', "[TOOL_CALLS]", "get_weather\n", "[[[[", "<"]
)
def test_adversarial_text_is_read_in_linear_time(kind, unit):
    text = unit * (100_000 // len(unit))
    began = time.thread_time()
    parse(kind, [text[i : i + 8] for i in range(0, len(text), 8)])
    assert time.thread_time() - began < 5


def test_python_arguments_run_nothing():
    assert python_arguments("tool_call(a='x\\n', b=2, c=-1.5, d=True, e=None)") == {
        "a": "x\n", "b": 2, "c": -1.5, "d": True, "e": None,
    }  # fmt: skip
    for odd in ("tool_call(", "tool_call(a=__import__('os'))", "tool_call(a=[1])", "print(1)", "tool_call('a')"):
        assert python_arguments(odd) is None


@pytest.mark.parametrize(
    ("template", "family", "kind"),
    [
        ("{{ tools }}<tool_call>", "qwen2", "hermes"), ("{% if tools %}[AVAILABLE_TOOLS]", "mistral", "mistral"),
        ('{{ tools }}"parameters"', "llama", "llama3_json"), ("", "chatglm", "glm"), ("{{ messages }}", "llama", None),
    ],
)  # fmt: skip
def test_the_format_follows_from_the_template(template, family, kind):
    assert detect(template, family) == kind


@pytest.fixture
def client(talker):
    with openai.OpenAI(base_url=f"{talker.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


ASK: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "weather?"}], "max_tokens": 400}


def test_a_call_with_the_official_client(talker, client):
    talker.say(f"Wait.\n<tool_call>\n{js(PARIS)}\n</tool_call>\n<tool_call>\n{js(SUM)}\n</tool_call>")
    choice = client.chat.completions.create(**ASK, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Wait."
    assert [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls] == [PARIS, SUM]
    with client.chat.completions.stream(**ASK, tools=TOOLS) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls" and final.message.content == "Wait."
    assert [(c.function.name, json.loads(c.function.arguments)) for c in final.message.tool_calls] == [PARIS, SUM]
    one = client.chat.completions.create(**ASK, tools=TOOLS, parallel_tool_calls=False).choices[0]
    assert len(one.message.tool_calls) == 1
    back = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [c.to_dict() for c in choice.message.tool_calls]},
        {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny"},
    ]
    talker.say("It is sunny.")
    answer = client.chat.completions.create(**{**ASK, "messages": back}, tools=TOOLS).choices[0]
    assert answer.message.content == "It is sunny." and answer.finish_reason == "stop"


def test_choice_none_reads_no_calls(talker, client):
    text = f"<tool_call>{js(PARIS)}</tool_call>"
    talker.say(text)
    choice = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice="none").choices[0]
    assert choice.message.content == text and choice.finish_reason == "stop" and choice.message.tool_calls is None


@pytest.mark.parametrize(
    ("said", "count"), [("<think>\nhm\n</think>\n\nWell.", 19), ("Well.", 0), ("<think>never en", 15), ("<thin ice", 0)]
)
def test_thoughts_are_counted(talker, said, count):
    """Tokens are bytes here. In the usage of chats and responses, whole and streamed, of all answers."""
    talker.say(said)
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": len(said), "n": 2}
    usage = talker.post("/v1/chat/completions", chat).json["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2 * count}
    assert usage["completion_tokens"] == 2 * len(said)
    streamed = {**chat, "stream": True, "stream_options": {"include_usage": True}}
    assert talker.post("/v1/chat/completions", streamed).events[-1]["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 2 * count
    }
    asked = {"input": "x", "max_output_tokens": len(said)}
    assert talker.post("/v1/responses", asked).json["usage"]["output_tokens_details"] == {"reasoning_tokens": count}
    last = talker.post("/v1/responses", {**asked, "stream": True}).events[-1]["response"]
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": count}


def test_reasoning_is_told_apart(talker, client):
    talker.say("<think>\nTwo and two…\n</think>\n\nFour.")
    message = client.chat.completions.create(**ASK).choices[0].message
    assert message.content == "Four." and message.reasoning_content == message.reasoning == "Two and two…"
    text = thought = ""
    for chunk in client.chat.completions.create(**ASK, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        thought += getattr(delta, "reasoning", None) or ""
    assert (text, thought) == ("Four.", "Two and two…")
    silent = {**ASK, "extra_body": {"include_reasoning": False}}
    message = client.chat.completions.create(**silent).choices[0].message
    assert message.content == "Four." and getattr(message, "reasoning", None) is None
    deltas = [c.choices[0].delta for c in client.chat.completions.create(**silent, stream=True)]
    assert "".join(d.content or "" for d in deltas) == "Four."
    assert not any(getattr(d, "reasoning", None) for d in deltas)
    talker.say("No thoughts, <think>not here</think>.")
    assert client.chat.completions.create(**ASK).choices[0].message.content == "No thoughts, <think>not here</think>."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"), ({"tools": [{"function": {"name": "a b"}}]}, "tools"),
        ({"tools": TOOLS * 100}, "tools"), ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"function": 5}}, "tool_choice"), ({"tools": [5]}, "tools[0]"),
    ],
)  # fmt: skip
def test_offers_that_cannot_be_honoured_are_refused(talker, fields, param):
    answer = talker.post("/v1/chat/completions", {**ASK, **fields})
    assert answer.status == 400 and answer.error["param"] == param


def test_tools_for_a_model_that_knows_none_are_refused(server):
    answer = server.post("/v1/chat/completions", {**ASK, "tools": TOOLS})
    assert answer.status == 400 and "knows no tools" in answer.error["message"]
