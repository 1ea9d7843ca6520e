"""Specifications to masks: every vocabulary, every limit, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from penstock.errors import ExecutionError, RequestError
from penstock.text.structured import regex, schema
from penstock.text.structured.thoughts import THOUGHT, spelt
from penstock.types import StructuredOutputs
from tests.text import vocabularies
from tests.text.grammars import Opened, bits, chain, walk

pytest.importorskip("llguidance", reason="llguidance (the extra 'structured') is not installed")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "蓝色", "😀"]}, "minItems": 1, "maxItems": 3},
        "x": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 3}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
KINDS_OF_ANY = ("json", "json_object")
TREE = {"type": "object", "properties": {"v": {"enum": [1, 2]}, "next": {"$ref": "#"}}, "additionalProperties": False}


@pytest.mark.parametrize("name", vocabularies.REAL)
def test_every_vocabulary_keeps_to_the_schema(name: str) -> None:
    found = Opened(name)
    try:
        finished = 0
        for seed in range(6):
            taken = walk(found(json=SCHEMA), found.ends, seed)
            if taken is None:
                continue
            finished += 1
            jsonschema.validate(json.loads(found.tokenizer.decode(taken)), SCHEMA)
            assert not found.tokenizer.special_ids & set(taken), "control tokens match no text"
            assert max(taken) < found.size, "rows beyond the tokenizer's are never allowed"
        assert finished > 0
        assert [found.say(seed, choice=["yes", "不"]) in ("yes", "不") for seed in range(4)] == [True] * 4
        begun = found(choice=["yes"])
        assert not found.ends & bits(begun), "an answer that has only begun cannot end"
        for token in found.ids("yes"):
            begun.accept(token)
        assert bits(begun) == found.ends, "every end token ends an answer"
    finally:
        found.compiler.close()


def test_control_tokens_in_the_specification_are_text(opened: Opened) -> None:
    said = walk(opened(choice=["</s>"]), opened.ends, 0)
    assert said is not None
    assert len(said) > 1
    assert opened.tokenizer.decode(said) == "</s>"


@pytest.mark.parametrize("seed", range(3))
def test_each_kind_says_what_it_was_asked_for(opened: Opened, seed: int) -> None:
    def said(**spec: Any) -> str:
        text = opened.say(seed, **spec)
        assert text is not None
        return text

    assert said(choice=["年\n", 'a"b\\', "😀"]) in ("年\n", 'a"b\\', "😀")
    assert re.fullmatch("[a-c]{3}x", said(regex="^[a-c]{3}x$"))
    assert said(grammar='root ::= "hi " name\nname ::= "bob" | "al"') in ("hi bob", "hi al")
    assert said(grammar='start: "hi " NAME\nNAME: /bob|al/') in ("hi bob", "hi al")
    assert json.loads(said(json={"const": {"a": [1]}})) == {"a": [1]}
    assert said(json={"const": {"a": [1]}}, disable_any_whitespace=True) == '{"a":[1]}'
    assert re.search(r"[ \t]{2}|\n\s*\n", re.sub(r"\n[ \t]{0,32}", "\n", said(json={"const": {"a": 1}}))) is None
    assert re.fullmatch(r'\{-*"a"-*:-*1-*\}', said(json={"const": {"a": 1}}, whitespace_pattern="-{1,3}"))
    more = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    for given in ({}, {"disable_additional_properties": True}):
        assert json.loads(said(json=more, **given)) == {"a": 1}


A, B = ({"type": "object", "properties": {name: {"const": 1}}, "required": [name]} for name in "ab")


@pytest.mark.parametrize(
    ("wanted", "closed"),
    [
        (A, True), ({"anyOf": [A, B]}, True), ({"type": "array", "items": A}, True), ({**A, "maxProperties": 3}, True),
        ({"$defs": {"x": A}, "properties": {"y": {"$ref": "#/$defs/x"}}}, True), ({"properties": {"c": A}}, True),
        ({"allOf": [A, B]}, False), ({**A, "anyOf": [B]}, False), ({**A, "required": ["a", "b"]}, False),
        ({"$defs": {"x": A}, "properties": {"b": {}}, "$ref": "#/$defs/x"}, False), ({**A, "minProperties": 2}, False),
        ({**A, "patternProperties": {"^x": {}}}, False), ({"properties": {"y": {"allOf": [A, B]}}}, False),
    ],
)  # fmt: skip
def test_objects_are_closed_where_one_list_names_all_their_properties(wanted: dict[str, Any], closed: bool) -> None:
    assert schema.is_composed(wanted) is not closed


def fits(opened: Opened, wanted: dict[str, Any], text: str) -> bool:
    constraint = opened(json=wanted)
    for token in opened.ids(text):
        if token not in bits(constraint):
            return False
        constraint.accept(token)
    return bool(opened.ends & bits(constraint))


@pytest.mark.parametrize("wanted", [{"allOf": [A, B]}, {**A, "additionalProperties": True}, {**A, "minProperties": 2}])
def test_objects_that_may_have_more_stay_open(opened: Opened, wanted: dict[str, Any]) -> None:
    both = json.dumps({"a": 1, "b": 1})
    assert fits(opened, wanted, both)
    assert not fits(opened, A, both) and fits(opened, A, json.dumps({"a": 1}))


def test_recursion_that_can_end_is_served(opened: Opened) -> None:
    for seed in range(3):
        text = opened.say(seed, json=TREE, disable_any_whitespace=True)
        if text is not None:
            jsonschema.validate(json.loads(text), TREE)


def test_any_json_and_any_object(opened: Opened) -> None:
    first = {spec: {opened.tokenizer.token_bytes(t)[:1] for t in bits(opened(**{spec: True}))} for spec in KINDS_OF_ANY}
    assert first["json"] > {b"{", b"[", b'"', b"-", b"t", b"n", b"7"}
    assert first["json_object"] == {b"{"}


def test_structural_tags_leave_the_rest_free(opened: Opened) -> None:
    tag = {"structures": [{"begin": "<f>", "schema": {"const": 7}, "end": "</f>"}], "triggers": ["<f"]}
    constraint = opened(structural_tag=tag)
    for token in opened.ids("hello <f"):
        assert token in bits(constraint)
        constraint.accept(token)
    rest = walk(constraint, opened.ends, 0, 12)
    if rest is not None:
        assert opened.tokenizer.decode(rest).startswith(">7</f>")
    bad: dict[str, Any]
    for bad in ({"structures": []}, {**tag, "triggers": ["<g"]}, {"format": {}}, {**tag, "triggers": [""]}):
        with pytest.raises(RequestError):
            opened(structural_tag=bad)


def test_copies_go_their_own_way_and_ends_stay_ends(opened: Opened) -> None:
    first = opened(choice=["ax", "by"])
    second = first.copy()
    a, b = (opened.ids(t)[0] for t in "ab")
    first.accept(a)
    second.accept(b)
    assert opened.tokenizer.decode(walk(first, opened.ends, 0) or []) == "x"
    assert opened.tokenizer.decode(walk(second, opened.ends, 0) or []) == "y"
    end = min(opened.ends)
    first.accept(end)
    first.accept(max(opened.ends))
    assert bits(first) == opened.ends
    for token in (a, -1, 1 << 20):
        with pytest.raises(ExecutionError, match="does not fit"):
            first.accept(token)


def test_the_end_waits_for_min_tokens_where_it_can(opened: Opened) -> None:
    spec = StructuredOutputs(regex="a{1,4}")
    constraint = opened.compiler.compile(spec, min_tokens=3)
    a = opened.ids("a")[0]
    for _ in range(2):
        constraint.accept(a)
        assert not opened.ends & bits(constraint)
    constraint.accept(a)
    assert opened.ends < bits(constraint)
    short = opened.compiler.compile(StructuredOutputs(regex="a"), min_tokens=3)
    short.accept(a)
    assert bits(short) == opened.ends, "an answer that can only end may end"


def test_only_allowed_tokens(opened: Opened) -> None:
    a, b = (opened.ids(t)[0] for t in "ab")
    constraint = opened.compiler.compile(StructuredOutputs(regex="[a-c]{2}"), allowed=[a, 1 << 30])
    assert bits(constraint) == {a}
    with pytest.raises(RequestError, match="none of the tokens"):
        opened.compiler.compile(StructuredOutputs(regex="aaa"), allowed=[b])


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(count)}}


def branches(count: int) -> dict[str, Any]:
    pairs = [[properties(i + 1), {"type": "object", "properties": {f"q{i}": {}}}] for i in range(count)]
    return {"allOf": [{"anyOf": pair} for pair in pairs]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"json": '{"items":' * 10_000 + "1" + "}" * 10_000}, "nested more than"),
    ({"json": '{"items":' * 100 + "{}" + "}" * 100}, "nested more than"),
    ({"json": "["}, "no JSON"),
    ({"json": "NaN"}, "no JSON"),
    ({"json": "[]"}, "not list"),
    ({"json": {"$ref": "#"}}, "without end"),
    ({"json": ENDLESS}, "without end"),
    ({"json": {"$ref": "https://example.org/x.json"}}, "leads out"),
    ({"json": {"$ref": "file:///etc/passwd"}}, "leads out"),
    ({"json": {"$ref": "#/nowhere"}}, "cannot be honoured"),
    ({"json": {"type": "nothing"}}, "nothing"),
    ({"json": False}, "false"),
    ({"json": {"not": {"type": "string"}}}, "not"),
    ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
    ({"json": {"type": "string", "format": "made up"}}, "made up"),
    ({"json": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}}, "oneOf"),
    ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, "cannot be honoured"),
    ({"json": {"type": "string", "pattern": "(a+)+"}}, "endless"),
    ({"json": {"type": "string", "pattern": "(?=a)b"}}, "look"),
    ({"json": {"type": "object", "x-guidance": {"lenient": True}}}, "x-guidance"),
    ({"json": properties(1001)}, "properties"),
    ({"json": {"enum": list(range(20_001))}}, "enums"),
    ({"json": {"const": "x" * 300_000}}, "characters"),
    ({"json": branches(60)}, "too large"),
    ({"json": chain(1500)}, "cannot be honoured"),
    ({"json": {}, "whitespace_pattern": "( +)+"}, "endless"),
    ({"regex": "(a+)+"}, "endless"),
    ({"regex": ".{0,100000}"}, "100000"),
    ({"regex": "x" * 20_000}, "characters"),
    ({"regex": "(" * 5000 + "a" + ")" * 5000}, "cannot be honoured"),
    ({"regex": r"(a)\1"}, "backreferences"),
    ({"regex": r"\bword"}, "lookarounds"),
    ({"regex": "(a"}, "unclosed"),
    ({"regex": "\ud800"}, "surrogates"),
    ({"grammar": "start: start"}, "cannot be honoured"),
    ({"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000}, "nested"),
    ({"grammar": "root ::= ???"}, "GBNF"),
    ({"grammar": "root ::= " + " ".join(['("a" | "b")*'] * 5000)}, "cannot be honoured"),
    ({"grammar": 'start: "a' + "b" * 70_000 + '"'}, "characters"),
    ({"grammar": 'start: %json {"$ref": "http://example.org"}'}, "cannot be honoured"),
]


@pytest.mark.parametrize(("spec", "reason"), REFUSED)
def test_what_cannot_be_honoured_is_refused_with_the_reason(opened: Opened, spec: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match="(?s)response_format.*" + re.escape(reason)) as caught:
        opened(**spec, param="response_format")
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "given",
    [
        {}, {"json": {}, "regex": "a"}, {"jsn": {}}, {"regex": ""}, {"regex": 5}, {"choice": []}, {"choice": "yes"},
        {"choice": [""]}, {"choice": [1]}, {"choice": ["a"] * 5000}, {"json": 5}, {"json": ""}, {"json_object": False},
        {"json_object": 1}, {"grammar": ""}, {"json": {"a": float("nan")}}, {"json": {"a": object()}},
        {"regex": "a", "disable_any_whitespace": 1}, {"json": {}, "whitespace_pattern": 3}, {"structural_tag": 4},
    ],
)  # fmt: skip
def test_a_specification_is_exactly_one_thing(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="structured_outputs") as caught:
        StructuredOutputs.of(given)
    assert caught.value.param == "structured_outputs"


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"'jsn' \(did you mean 'json'\?\)"):
        StructuredOutputs.of({"jsn": {}})


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        ("(a+)+", False), ("((a+))*", False), ("(?:a*)+b", False), (r"(\p{L}+)+", False), ("([a(]+)+", False),
        ("(?P<x>a{2,})*", False), ("a{1,10001}", False), ("(?:[^]]+)*", False), ("(a+b)+", True), ("(a+|b)+", True),
        (r"(\w+\s)+", True), ("(a{2,5})+", True), (r"\(a+\)+", True), ("[(]a+[)]+", True), ("(a+)?", True),
        ("(a+){2,3}", True), ("a+?", True), (r"\{3\}", True), ("", True), ("{", True), (")+", True), ("[", True),
    ],
)  # fmt: skip
def test_regular_expressions_that_repeat_repetitions(pattern: str, good: bool) -> None:
    assert (regex.problem(pattern) is None) is good


def test_references_are_followed_in_any_order() -> None:
    names = [f"d{i}" for i in np.random.default_rng(0).permutation(300)]
    links = {a: {"type": "object", "properties": {"n": {"$ref": f"#/$defs/{b}"}}, "required": ["n"]}
             for a, b in itertools.pairwise(names)}  # fmt: skip
    good = {"$defs": {**links, names[-1]: {"type": "integer"}}, "$ref": f"#/$defs/{names[0]}"}
    schema.check(good)
    looped = {"$defs": {**links, names[-1]: {"$ref": f"#/$defs/{names[7]}"}}, "$ref": f"#/$defs/{names[0]}"}
    with pytest.raises(ValueError, match="without end"):
        schema.check(looped)
    schema.check({"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}], "$defs": {"a/b": ENDLESS | {"a": 1}}})
    schema.check({"type": "array", "items": {"$ref": "#"}})
    schema.check({"const": {"$ref": "http://a.value/not.a.reference"}, "properties": {"$ref": {"type": "string"}}})
    with pytest.raises(ValueError, match="without end"):
        schema.check({"type": "array", "items": {"$ref": "#"}, "minItems": 1})


@pytest.mark.parametrize("name", vocabularies.REAL)
def test_every_vocabulary_can_end_thoughts(name: str) -> None:
    tokenizer = vocabularies.real(name)
    ids = spelt(tokenizer, THOUGHT)
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"</think>"
