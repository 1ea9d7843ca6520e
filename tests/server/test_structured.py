"""Structured output in every dialect: the answer is what was asked for, or the request is refused with the reason."""

from __future__ import annotations

import inspect
import json
import re
import time

import numpy as np
import pytest

from penstock.engine.engine import Engine
from penstock.errors import RequestError
from penstock.server.structured.compiler import Compiler
from penstock.server.structured.grammar import Grammar, from_response_format, from_structured_outputs

pytest.importorskip("llguidance", reason="llguidance is not installed")
needs_engine = pytest.mark.skipif(
    "constraint" not in inspect.signature(Engine.add).parameters, reason="the engine takes no constraints yet"
)
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["age", "name"],
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "name": {"enum": ["Ann", "Bob"]}},
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "get", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "put", "parameters": {"type": "object", "additionalProperties": False}}},
]
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def compiler(llm):
    return Compiler(llm.model)


def walk(constraint, seed: int, most: int = 300) -> str:
    """A random answer that the constraint allows."""
    random = np.random.default_rng(seed)
    said = bytearray()
    for _ in range(most):
        allowed = np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")[:260])
        assert len(allowed)
        token = int(random.choice(allowed))
        assert token < 256 or token in (257, 259)
        if token >= 256:
            break
        constraint.accept(token)
        said.append(token)
    return said.decode("utf-8", "replace")


@pytest.mark.parametrize("seed", range(5))
def test_what_the_masks_allow_is_what_was_asked_for(compiler, seed):
    assert walk(compiler.compile(Grammar("choice", '["yes", "no", "年"]')), seed) in ("yes", "no", "年")
    assert re.fullmatch("[a-c]{3}x", walk(compiler.compile(Grammar("regex", "[a-c]{3}x")), seed))
    assert walk(compiler.compile(Grammar("grammar", 'root ::= "hi " ("bob" | "al")')), seed) in ("hi bob", "hi al")
    found = json.loads(walk(compiler.compile(Grammar("json", json.dumps(SCHEMA))), seed))
    assert 0 <= found["age"] <= 99 and found["name"] in ("Ann", "Bob")


def test_copies_go_their_own_way(compiler):
    first = compiler.compile(Grammar("choice", '["ax", "by"]'))
    second = first.copy()
    first.accept(ord("a"))
    second.accept(ord("b"))
    assert walk(first, 0) == "x" and walk(second, 0) == "y"


@pytest.mark.parametrize(
    "given",
    [
        {"regex": "(a"}, {"json": {"type": "nothing"}}, {"grammar": "root ::= ???"}, {"json": '{"$ref": "#/x"}'},
        {"json": "{"}, {"choice": []}, {"choice": [""]}, {"choice": "yes"}, {"choice": [1]}, {"regex": 5}, {"json": 5},
        {"regex": "a", "choice": ["b"]}, {"structural_tag": "x"}, {"regex": "x" * 300_000},
        {"json": {"type": "string", "pattern": "(" * 999}},
        {"json": {"type": "string", "pattern": "(?=a)b"}}, {"regex": "(((a{1,999}){1,999}){1,999}){1,999}b{1,99999}"},
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_soon(compiler, given):
    began = time.perf_counter()
    try:
        grammar = from_structured_outputs(given)
        assert grammar is not None
        walk(compiler.compile(grammar), 0, 20)
    except RequestError:
        pass
    assert time.perf_counter() - began < 5


def test_deep_and_recursive_schemas_are_bounded(compiler):
    deep: dict[str, object] = {"type": "object"}
    for _ in range(400):
        deep = {"type": "array", "items": deep}
    began = time.perf_counter()
    for schema in (deep, {"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"type": "null"}]}):
        try:
            grammar = from_response_format({"type": "json_schema", "json_schema": {"schema": schema}})
            assert grammar is not None
            walk(compiler.compile(grammar), 0, 20)
        except (RequestError, AssertionError):
            continue
    assert time.perf_counter() - began < 5


def test_compiled_grammars_are_kept_and_bounded(compiler):
    for i in range(200):
        compiler.compile(Grammar("choice", f'["{i}"]'))
    assert len(compiler._kept) <= 64


@needs_engine
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


@needs_engine
def test_other_dialects(server):
    regex = {"type": "regex", "value": "[ab]{4}"}
    found = server.post("/generate", {"inputs": "x", "parameters": {"grammar": regex, "max_new_tokens": 9}}).json
    assert re.fullmatch("[ab]{4}", found["generated_text"])
    found = server.post("/api/chat", {"messages": HELLO, "format": SCHEMA, "stream": False}).json
    assert json.loads(found["message"]["content"])["name"] in ("Ann", "Bob")
    found = server.post("/completion", {"prompt": "x", "grammar": 'root ::= "ok"', "n_predict": 9}).json
    assert found["content"] == "ok"
    wish = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    found = server.post("/v1/responses", {"input": "x", "text": wish, "max_output_tokens": 200}).json
    assert json.loads(found["output"][0]["content"][0]["text"])["name"] in ("Ann", "Bob")


@needs_engine
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


def test_a_schema_that_cannot_be_honoured_is_an_answer(server):
    for wish in ({"regex": "(a"}, {"json": {"type": "nothing"}}, {"what": 1}):
        answer = server.post("/v1/completions", {"prompt": "a", "structured_outputs": wish})
        assert answer.status == 400 and "structured_outputs" in answer.error["message"]
    for more in ({"min_tokens": 3}, {"ignore_eos": True}, {"allowed_token_ids": [5]}):
        body = {"prompt": "a", "structured_outputs": {"choice": ["b"]}, **more}
        assert server.post("/v1/completions", body).status == 400
    both = {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}
    assert server.post("/v1/completions", {"prompt": "a", **both}).status == 400
    answer = server.post("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "xml"}})
    assert answer.status == 400 and answer.error["param"] == "response_format"
