"""Structured output in every dialect: the answer is what was asked for, or the request is refused with the reason."""

from __future__ import annotations

import json
import re
import threading
import time

import numpy as np
import pytest

from penstock.errors import RequestError
from penstock.server.structured import for_calls, from_response_format, from_structured_outputs
from penstock.server.tools.formats import FORMATS
from penstock.server.tools.pieces import Text, ToolCall
from penstock.text.structured.thoughts import AfterThoughts
from penstock.text.structured.trial import Trial
from penstock.types import Constraint, StructuredOutputs
from tests.server.harness import (
    TEMPLATE,
    Scripted,
    Server,
    Talker,
    data_lines,
    eventually,
    make_checkpoint,
    open_model,
)

pytest.importorskip("llguidance", reason="llguidance is not installed")
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["age", "name"],
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "name": {"enum": ["Ann", "Bob"]}},
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "get", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "put", "parameters": {"type": "object", "additionalProperties": False}}},
]
HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("stream", [False, True])
def test_openai(server, stream):
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    body = {"messages": HELLO, "max_tokens": 200, "n": 3, "response_format": wish, "stream": stream, "seed": 1}
    answer = server.post("/v1/chat/completions", body)
    texts = ["", "", ""]
    if stream:
        for event in answer.events:
            texts[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content") or ""
    else:
        texts = [c["message"]["content"] for c in answer.json["choices"]]
    for text in texts:
        assert json.loads(text)["name"] in ("Ann", "Bob")
    body = {"prompt": ["a", "b"], "max_tokens": 20, "structured_outputs": {"choice": ["red", "blue"]}, "stop": ["z"]}
    assert all(c["text"] in ("red", "blue") for c in server.post("/v1/completions", body).json["choices"])


def test_a_form_that_the_allowed_tokens_cannot_fill_is_refused(server):
    """At once, or where they come to an end: a mistake of the request, not the server's."""
    for regex in ("[0-9]+", "[ab]{3}[0-9]"):
        body = {
            "prompt": "a",
            "max_tokens": 9,
            "structured_outputs": {"regex": regex},
            "allowed_token_ids": [97, 98, 257],
        }
        answer = server.post("/v1/completions", body)
        assert answer.status == 400 and "none of the tokens allowed" in answer.error["message"]
    grammar = {"type": "regex", "value": "[ab]{3}☃"}
    told = server.post("/generate", {"inputs": "x", "parameters": {"grammar": grammar, "max_new_tokens": 9}})
    assert told.status == 200


def test_other_dialects(server):
    regex = {"type": "regex", "value": "[ab]{4}"}
    found = server.post("/generate", {"inputs": "x", "parameters": {"grammar": regex, "max_new_tokens": 9}}).json
    assert re.fullmatch("[ab]{4}", found["generated_text"])
    wish = {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}}
    found = server.post("/generate", {"inputs": "x", "parameters": {"grammar": wish, "max_new_tokens": 200}}).json
    assert json.loads(found["generated_text"])["name"] in ("Ann", "Bob")
    found = server.post("/api/chat", {"messages": HELLO, "format": SCHEMA, "stream": False}).json
    assert json.loads(found["message"]["content"])["name"] in ("Ann", "Bob")
    for raw in (False, True):
        found = server.post("/api/generate", {"prompt": "x", "format": SCHEMA, "stream": False, "raw": raw}).json
        assert json.loads(found["response"])["name"] in ("Ann", "Bob")
    found = server.post("/completion", {"prompt": "x", "grammar": 'root ::= "ok"', "n_predict": 9}).json
    assert found["content"] == "ok"
    found = server.post("/completion", {"prompt": "x", "json_schema": SCHEMA}).json
    assert json.loads(found["content"])["name"] in ("Ann", "Bob")
    wish = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    found = server.post("/v1/responses", {"input": "x", "text": wish, "max_output_tokens": 200}).json
    assert json.loads(found["output"][0]["content"][0]["text"])["name"] in ("Ann", "Bob")
    body = {
        "messages": HELLO,
        "max_tokens": 200,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    found = server.post("/v1/messages", body).json
    assert json.loads(found["content"][0]["text"])["name"] in ("Ann", "Bob")


def test_other_dialects_stream_it(server):
    regex = {"type": "regex", "value": "[ab]{4}"}
    body = {"inputs": "x", "parameters": {"grammar": regex, "max_new_tokens": 9}}
    assert re.fullmatch("[ab]{4}", server.post("/generate_stream", body).events[-1]["generated_text"])
    lines = server.post("/api/chat", {"messages": HELLO, "format": SCHEMA}).body.splitlines()
    said = "".join(json.loads(line)["message"]["content"] for line in lines)
    assert json.loads(said)["name"] in ("Ann", "Bob")
    events = server.post("/completion", {"prompt": "x", "json_schema": SCHEMA, "stream": True}).events
    assert json.loads("".join(e["content"] for e in events))["name"] in ("Ann", "Bob")
    wish = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    events = server.post("/v1/responses", {"input": "x", "text": wish, "stream": True}).events
    said = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert json.loads(said)["name"] in ("Ann", "Bob")
    form = {"type": "json_schema", "schema": SCHEMA}
    answer = server.post("/v1/messages", {"messages": HELLO, "max_tokens": 200, "stream": True, "output_format": form})
    found = [json.loads(d) for d in data_lines(answer.body)]
    said = "".join(e["delta"].get("text", "") for e in found if e["type"] == "content_block_delta")
    assert json.loads(said)["name"] in ("Ann", "Bob")


def test_with_beams_stop_and_a_least_length(server):
    wish = {"structured_outputs": {"regex": "[ab]{2}-[ab]{9}"}}
    body = {"prompt": "x", "max_tokens": 20, **wish}
    found = server.post("/v1/completions", {**body, "use_beam_search": True, "n": 2, "best_of": 3}).json["choices"]
    assert len({c["text"] for c in found}) == 2
    assert all(re.fullmatch("[ab]{2}-[ab]{9}", c["text"]) for c in found)
    (choice,) = server.post("/v1/completions", {**body, "stop": ["-"]}).json["choices"]
    assert re.fullmatch("[ab]{2}", choice["text"]) and choice["stop_reason"] == "-"
    body = {"prompt": ["x", "y"], "max_tokens": 20, "min_tokens": 7, "structured_outputs": {"regex": "[ab]{1,9}"}}
    assert all(7 <= len(c["text"]) <= 9 for c in server.post("/v1/completions", body).json["choices"])
    only = {"structured_outputs": {"regex": "[ab]{5}"}, "allowed_token_ids": [ord("b"), 257]}
    assert server.post("/v1/completions", {"prompt": "x", **only}).json["choices"][0]["text"] == "bbbbb"


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"), ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= "x" "y"'}, "xy"), ({"guided_json": {"const": 5}}, "5"),
        ({"guided_json": '{"const": 5}', "guided_decoding_backend": "xgrammar"}, "5"),
        ({"response_format": {"type": "regex", "value": "[ab]{3}"}}, "[ab]{3}"),
        ({"structured_outputs": {"json": {"const": [1]}, "disable_any_whitespace": True}}, r"\[1\]"),
        ({"structured_outputs": {"structural_tag": {
            "structures": [{"begin": "<a>", "schema": {"const": 1}, "end": "</a>"}], "triggers": ["<a"]}},
          "max_tokens": 4}, "(?s).*"),
    ],
)  # fmt: skip
def test_old_and_other_names(server, fields, pattern):
    body = {"prompt": "x", "max_tokens": 20, **fields}
    answer = server.post("/v1/completions", body)
    assert answer.status == 200, answer.body
    assert re.fullmatch(pattern, answer.json["choices"][0]["text"])


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"get", "put"}), ({"type": "function", "function": {"name": "get"}}, {"get"})],
)
def test_a_call_that_must_be(talker, choice, names):
    talker.free()
    body = {"messages": HELLO, "max_tokens": 400, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    choice = talker.post("/v1/chat/completions", {**body, "seed": 3}).json["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and call["function"]["name"] in names
    assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_calls_that_must_be_come_one_by_one_and_may_be_cut_short():
    whole = ' [ {"name": "get", "arguments": {"a": "]}{[\\""}},\n{"name":"put","arguments":{"b":[1,{}]}}]'
    for size in (1, 3, len(whole)):
        parser = FORMATS["forced"](("get", "put"))
        fed = [parser.feed(whole[at : at + size]) for at in range(0, len(whole), size)]
        calls = [p for pieces in fed for p in pieces if isinstance(p, ToolCall)]
        assert [(c.name, json.loads(c.arguments)) for c in calls] == [("get", {"a": ']}{["'}), ("put", {"b": [1, {}]})]
        assert parser.finish() == []
        assert size == len(whole) or any(fed[: len(fed) * 2 // 3])
    cut = whole.index("[1,")
    parser = FORMATS["forced"](("get", "put"))
    told = [p for p in (*parser.feed(whole[:cut]), *parser.finish()) if isinstance(p, ToolCall)]
    assert [(c.name, c.arguments) for c in told] == [("get", told[0].arguments), ("put", '{"b":')]
    parser = FORMATS["forced"](("get",))
    assert [*parser.feed('[{"na'), *parser.finish()] == [Text('{"na')]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_ends_within_a_call(talker, stream):
    """As OpenAI's: the call as far as it came, and why it ends."""
    talker.free()
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 500}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema}}]
    body = {
        "messages": HELLO,
        "max_tokens": 120,
        "tools": tools,
        "tool_choice": "required",
        "stream": stream,
        "seed": 1,
    }
    answer = talker.post("/v1/chat/completions", body)
    if stream:
        calls = [c for e in answer.events for c in e["choices"][0]["delta"].get("tool_calls", ())]
        arguments = "".join(c["function"].get("arguments", "") for c in calls)
        reason = answer.events[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = answer.json["choices"]
        arguments, reason = choice["message"]["tool_calls"][0]["function"]["arguments"], choice["finish_reason"]
    assert reason == "length" and arguments.lstrip().startswith("{")
    told = talker.post("/api/chat", {"messages": HELLO, "tools": tools, "stream": False, "options": {"num_predict": 9}})
    assert told.status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_in_other_dialects(talker, stream):
    talker.free()
    tools = [{"name": "get", "input_schema": SCHEMA}]
    body = {"messages": HELLO, "max_tokens": 400, "tools": tools, "tool_choice": {"type": "any"}, "stream": stream}
    body["tool_choice"]["disable_parallel_tool_use"] = True
    answer = talker.post("/v1/messages", body)
    if stream:
        said = "".join(e["delta"].get("partial_json", "") for e in answer.events if e["type"] == "content_block_delta")
        assert json.loads(said)["name"] in ("Ann", "Bob")
    else:
        (block,) = answer.json["content"]
        assert block["type"] == "tool_use" and block["input"]["name"] in ("Ann", "Bob")
    tools = [{"type": "function", "name": "get", "parameters": SCHEMA}]
    body = {"input": "hi", "tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "stream": stream}
    answer = talker.post("/v1/responses", body)
    output = answer.events[-1]["response"]["output"] if stream else answer.json["output"]
    assert json.loads(output[0]["arguments"])["name"] in ("Ann", "Bob")


def test_parameters_that_refer_to_their_own_definitions(talker):
    """Two functions with definitions of one name: each reference leads where it led."""
    talker.free()
    kinds = {"get": {"const": "left"}, "put": {"const": "right"}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "properties": {"x": {"$ref": "#/$defs/kind"}}, "required": ["x"],
            "additionalProperties": False, "$defs": {"kind": kind}}}}
        for name, kind in kinds.items()
    ]  # fmt: skip
    for name, kind in kinds.items():
        choice = {"type": "function", "function": {"name": name}}
        body = {"messages": HELLO, "max_tokens": 300, "tools": tools, "tool_choice": choice}
        (call,) = talker.post("/v1/chat/completions", body).json["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"x": kind["const"]}
    whole = for_calls(tools, None, True)
    assert whole.param == "tools" and "#/$defs/function1/$defs/kind" in str(whole.json)


REFUSED = [
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "(a"}}, "structured_outputs"),
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs"),
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"regexp": "a"}}, "regex"),
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "a", "choice": ["b"]}}, "both"),
    ("/v1/completions", {"prompt": "a", "guided_regex": "(a+)+"}, "guided_regex"),
    ("/v1/completions", {"prompt": "a", "guided_regex": "a", "structured_outputs": {"regex": "a"}}, "not both"),
    ("/v1/completions", {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": 5}}, "json_schema"),
    ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "xml"}}, "response_format"),
    ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {
        "schema": {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}}}}, "leads out"),
    ("/generate", {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(a"}}}, "grammar"),
    ("/generate", {"inputs": "a", "parameters": {"grammar": {"type": "lark", "value": "x"}}}, "grammar"),
    ("/api/chat", {"messages": HELLO, "format": {"type": "nothing"}}, "format"),
    ("/api/generate", {"prompt": "a", "format": "yaml"}, "format"),
    ("/completion", {"prompt": "a", "grammar": "root ::= ???"}, "grammar"),
    ("/completion", {"prompt": "a", "json_schema": {"$ref": "#"}}, "without end"),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 5, "output_format": {"type": "json_schema", "schema": {
        "type": "nothing"}}}, "output_config"),
    ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "text"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "reason"), REFUSED)
def test_what_cannot_be_honoured_is_refused_with_the_reason(server, path, body, reason):
    answer = server.post(path, body)
    assert answer.status in (400, 422), answer.body
    assert reason in answer.body.decode()
    assert server.idle()


def test_tools_that_cannot_be_honoured_are_refused(talker):
    tools = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {
        "x": {"type": "nothing"}}, "required": ["x"]}}}]  # fmt: skip
    answer = talker.post("/v1/chat/completions", {"messages": HELLO, "tools": tools, "tool_choice": "required"})
    assert answer.status == 400 and answer.error["param"] == "tools"
    wish = {"tools": tools, "tool_choice": "required", "response_format": {"type": "json_object"}}
    answer = talker.post("/v1/chat/completions", {"messages": HELLO, **wish})
    assert answer.status == 400 and "exclude" in answer.error["message"]


def test_both_ways_of_asking_are_one_too_many(server):
    both = {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}
    assert server.post("/v1/completions", {"prompt": "a", **both}).status == 400
    assert from_structured_outputs({"regex": None, "json_object": False}) is None
    with pytest.raises(RequestError, match="must be an object"):
        from_response_format({"type": "json_schema", "json_schema": {"schema": 5}})


def test_others_are_answered_while_a_grammar_compiles(llm, monkeypatch):
    """The trial of one grammar takes long: requests without one, and with one that is known, do not wait for it."""
    known = {"prompt": "x", "structured_outputs": {"regex": "[xy]{2}"}, "max_tokens": 5}
    started, go = threading.Event(), threading.Event()
    run = Trial.run

    def slow(self, kind, source, options):
        if source == "[slow]{2}":
            started.set()
            assert go.wait(20)
        return run(self, kind, source, options)

    with Server(llm) as server:
        assert server.post("/v1/completions", known).status == 200
        monkeypatch.setattr(Trial, "run", slow)
        answers = []
        wish = {**known, "structured_outputs": {"regex": "[slow]{2}"}}
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", wish)))
        asking.start()
        assert started.wait(20)
        assert server.get("/health").status == 200
        assert re.fullmatch("[xy]{2}", server.post("/v1/completions", known).json["choices"][0]["text"])
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status == 200
        assert not answers
        go.set()
        asking.join(30)
        assert re.fullmatch("[slow]{2}", answers[0].json["choices"][0]["text"])
        assert eventually(server.idle)


def test_a_grammar_without_a_turn_is_told_to_come_again(llm, monkeypatch):
    held = threading.Event()
    monkeypatch.setattr("penstock.async_llm.GRAMMAR_SECONDS", 0.2)
    monkeypatch.setattr(Trial, "run", lambda self, kind, source, options: str(held.wait(2)))
    with Server(llm) as server:
        body = {"prompt": "x", "structured_outputs": {"regex": "[never]{3}"}}
        began = time.perf_counter()
        answer = server.post("/v1/completions", body)
        assert answer.status == 503 and "retry-after" in answer.headers
        assert time.perf_counter() - began < 2
        held.set()
        assert eventually(server.idle)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A server whose model says what it is told, with a template that begins the thoughts."""
    template = TEMPLATE.replace("assistant\n", "assistant\n<think>\n") + "{# </think> #}"
    model = open_model(make_checkpoint(tmp_path_factory.mktemp("thinker"), template))
    scripted = Scripted(model.model.executor)
    model.model.engine.executor = scripted
    with Server(model, tool_call_parser="hermes") as server:
        yield Talker(server, scripted)
    model.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_form_holds_behind_the_thoughts(thinker, stream):
    answer = '{"age": 5, "name": "Ann"}'
    thinker.say(f"Not JSON at all: {{]\n</think>{answer}")
    wish = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    body = {"messages": HELLO, "max_tokens": 200, "response_format": wish, "stream": stream}
    found = thinker.post("/v1/chat/completions", body)
    assert found.status == 200, found.body
    parts = [e["choices"][0]["delta"] for e in found.events] if stream else [found.json["choices"][0]["message"]]
    assert "".join(p.get("content") or "" for p in parts) == answer
    assert "".join(p.get("reasoning") or "" for p in parts) == "Not JSON at all: {]"
    thinker.say("Hm.</think>Sure! Here it is")
    found = thinker.post("/v1/chat/completions", {**body, "stream": False})
    assert found.status == 500 and "does not fit" in found.error["message"]


def test_a_call_that_must_be_comes_behind_the_thoughts(thinker):
    thinker.say('Let me see.</think>[{"name": "get", "arguments": {"age": 1, "name": "Bob"}}]')
    tools = [{"name": "get", "input_schema": SCHEMA}]
    body = {"messages": HELLO, "max_tokens": 300, "tools": tools, "tool_choice": {"type": "any"}}
    thought, call = thinker.post("/v1/messages", body).json["content"]
    assert thought["thinking"] == "Let me see." and call["input"] == {"age": 1, "name": "Bob"}


def test_thoughts_may_be_begun_or_left_out(llm):
    """Where the prompt did not begin them, the token that does is allowed first, and only first."""
    compiler = llm.frontend.compiler
    assert compiler is not None
    inner = compiler.compile(StructuredOutputs(regex="ab"))
    start = 40
    free = inner.mask() * 0
    free[0] = 0xFFFF
    made = AfterThoughts(inner, free, lambda token: b"</think>" if token == 7 else b"x", start)

    def allows(constraint: Constraint, token: int) -> bool:
        return bool(constraint.mask()[token // 32] >> np.uint32(token % 32) & 1)

    assert allows(made, start) and allows(made, ord("a")) and not allows(made, ord("b"))
    other = made.copy()
    other.accept(ord("a"))
    assert not allows(other, start) and allows(other, ord("b"))
    made.accept(start)
    assert allows(made, 3) and not allows(made, ord("a"))
    made.accept(3)
    made.accept(7)
    assert allows(made, ord("a")) and not allows(made, start) and not allows(made, 3)


@pytest.mark.parametrize("budget", [0, 5])
def test_thoughts_end_with_their_budget(thinker, budget):
    """The model would think for ever; behind its budget the answer begins, free or of the form that is wanted."""
    thinker.free()
    body = {"messages": HELLO, "max_tokens": 60, "thinking_token_budget": budget, "seed": 3, "ignore_eos": True}
    answer = thinker.post("/v1/chat/completions", {**body, "return_token_ids": True})
    assert answer.status == 200, answer.body
    ids = answer.json["choices"][0]["token_ids"]
    assert bytes(ids[budget : budget + 8]) == b"</think>" and len(ids) == 60
    wish = {**body, "structured_outputs": {"choice": ["yes", "no"]}, "ignore_eos": False}
    assert thinker.post("/v1/chat/completions", wish).json["choices"][0]["message"]["content"] in ("yes", "no")
    thinking = {"type": "enabled", "budget_tokens": budget}
    found = thinker.post("/v1/messages", {"messages": HELLO, "max_tokens": 40, "thinking": thinking}).json
    thought = "".join(b["thinking"] for b in found["content"] if b["type"] == "thinking")
    assert len(thought.encode()) <= 3 * budget


def test_budgets_that_cannot_be(thinker, server):
    body = {"messages": HELLO, "max_tokens": 4, "thinking_token_budget": 5}
    assert "marks no thoughts" in server.post("/v1/chat/completions", body).error["message"]
    assert thinker.post("/v1/chat/completions", {**body, "thinking_token_budget": -1}).status == 400
    wrong = {"messages": HELLO, "max_tokens": 4, "thinking": {"type": "enabled", "budget_tokens": "x"}}
    assert thinker.post("/v1/messages", wrong).status == 400
    assert thinker.post("/v1/completions", {"prompt": "x", "thinking_token_budget": 5}).status == 400
