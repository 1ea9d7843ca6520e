"""Specifications to masks: every vocabulary, every limit, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import numpy as np
import pytest

from penstock.errors import ExecutionError, MissingDependencyError, OverloadedError, RequestError
from penstock.text.structured import GrammarCompiler, compiler, regex, schema
from penstock.text.structured.constraint import GrammarConstraint
from penstock.text.structured.thoughts import THOUGHT, spelt
from penstock.text.structured.trial import Trial
from penstock.text.structured.vocabulary import Vocabulary
from penstock.text.tokenizer import Tokenizer
from penstock.types import StructuredOutputs
from tests.text import vocabularies

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


def bits(constraint: GrammarConstraint) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")).tolist())


def walk(constraint: GrammarConstraint, ends: set[int], seed: int, most: int = 400) -> list[int] | None:
    """Random allowed tokens up to an end token, the rarer the longer; None if there is no end in sight."""
    rng = np.random.default_rng(seed)
    taken: list[int] = []
    while len(taken) < most:
        allowed = sorted(bits(constraint))
        ending = [t for t in allowed if t in ends]
        token = int(rng.choice(ending if ending and rng.random() < 0.3 else allowed))
        if token in ends:
            return taken
        constraint.accept(token)
        taken.append(token)
    return None


class Opened:
    """A compiler over a real tokenizer, for a model with more rows than tokens and an end token among those."""

    def __init__(self, name: str) -> None:
        self.tokenizer: Tokenizer = vocabularies.real(name)
        self.size = self.tokenizer.vocab_size
        self.ends = {*(self.tokenizer.eos_ids or {max(self.tokenizer.special_ids)}), self.size + 5}
        self.compiler = GrammarCompiler(self.tokenizer, self.size + 70, self.ends)

    def __call__(self, **spec: Any) -> GrammarConstraint:
        return self.compiler.compile(StructuredOutputs(**spec))

    def ids(self, text: str) -> list[int]:
        """How the answer is spelt in the middle of a text."""
        return Vocabulary(self.tokenizer, sorted(self.ends))(text)

    def say(self, seed: int = 0, **spec: Any) -> str | None:
        taken = walk(self(**spec), self.ends, seed)
        return None if taken is None else self.tokenizer.decode(taken)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    found = Opened("stories")
    yield found
    found.compiler.close()


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


def chain(count: int) -> dict[str, Any]:
    definitions = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(count)}
    return {"$defs": {**definitions, f"d{count}": {}}, "$ref": "#/$defs/d0"}


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


def test_a_grammar_that_takes_too_long_is_killed_and_the_next_is_served() -> None:
    trial = Trial(seconds=0.5)
    slow = "root ::= " + " ".join(['("a" | "b")*'] * 15_000)
    try:
        assert trial.run("regex", "a", {})
        with pytest.raises(ValueError, match=r"more than 0\.5 s"):
            trial.run("grammar", slow, {})
        assert trial.run("regex", "b", {})
        assert trial._process is not None
        trial._process.kill()
        assert trial.run("regex", "c", {}), "a process that has gone is started again"
    finally:
        trial.close()
    assert trial._process is None


def test_a_grammar_that_breaks_the_compiler_breaks_only_the_trial() -> None:
    trial = Trial()
    try:
        with pytest.raises(ValueError, match="memory, or the compiler failed"):
            trial.run("json", json.dumps(chain(15_000)), {})
        assert trial.run("regex", "b", {})
    finally:
        trial.close()


def test_compiled_grammars_are_kept_within_bounds(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "KEPT", 5)
    for i in range(12):
        opened(choice=[f"{i}"])
    assert opened.compiler.kept[0] == 5
    monkeypatch.setattr(compiler, "KEPT_BYTES", 200_000)
    opened(choice=["a"])
    count, size = opened.compiler.kept
    assert count < 5
    assert size <= 200_000


def test_a_worn_grammar_is_compiled_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    # Copies share an automaton of bounded size: left alone, the answers of one request would use up another's.
    monkeypatch.setattr(compiler, "WORN_TOKENS", 10)
    first = opened(regex="(a|b)*a(a|b){40}c")
    a = opened.ids("a")[0]
    for _ in range(12):
        first.accept(a)
    second = opened(regex="(a|b)*a(a|b){40}c")
    assert second._usage is not first._usage
    first.accept(a)
    second.accept(a)


def test_threads_may_share_a_compiler(opened: Opened) -> None:
    found: list[str | None] = []

    def work(seed: int) -> None:
        found.append(opened.say(seed, choice=["x", "y"]))
        found.append(opened.say(seed, regex=f"[{seed}-9]"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(text is not None and re.fullmatch("[xy0-9]", text) for text in found)


def test_the_same_grammar_is_tried_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    run = opened.compiler._trial.run

    def counted(kind: str, source: str, options: Mapping[str, Any]) -> str:
        tried.append(source)
        return run(kind, source, options)

    monkeypatch.setattr(opened.compiler._trial, "run", counted)
    threads = [threading.Thread(target=opened, kwargs={"regex": "q{7}"}) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tried == ["q{7}"]


def test_a_queue_of_grammars_is_bounded_in_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "WAIT_SECONDS", 0.01)
    with opened.compiler._turn, pytest.raises(OverloadedError, match="wait to be compiled"):
        opened(regex="q{8}")


def test_a_process_that_does_not_start_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ExecutionError, match="cannot be started"):
        Trial().run("regex", "a", {})


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = vocabularies.real("stories")
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"penstock\[structured\]"):
        GrammarCompiler(tokenizer, tokenizer.vocab_size, [2]).compile(StructuredOutputs(regex="a"))


def test_without_an_end_token_nothing_can_be_constrained() -> None:
    tokenizer = vocabularies.real("stories")
    with pytest.raises(RequestError, match="ends an answer"):
        GrammarCompiler(tokenizer, tokenizer.vocab_size, []).compile(StructuredOutputs(regex="a"))


@pytest.mark.parametrize("name", vocabularies.REAL)
def test_every_vocabulary_can_end_thoughts(name: str) -> None:
    tokenizer = vocabularies.real(name)
    ids = spelt(tokenizer, THOUGHT)
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"</think>"
