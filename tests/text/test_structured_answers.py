"""Structured output end to end: whatever a random model wants to say, the answer is what was asked for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from penstock import LLM, AsyncLLM, SamplingParams, StructuredOutputs
from penstock.errors import RequestError
from tests import tiny

pytest.importorskip("llguidance", reason="llguidance (the extra 'structured') is not installed")

OPTIONS: dict[str, Any] = {"kv_cache_memory": 1 << 22, "max_num_seqs": 16, "threads": 1}
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "王"]}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder, **OPTIONS) as found:
        yield found


def answers(llm: LLM, spec: dict[str, Any] | StructuredOutputs, **params: Any) -> list[str]:
    """The texts of one prompt's answers; all of them have to have ended of themselves."""
    wish = SamplingParams(**{"max_tokens": 400, "seed": 7, **params}, structured_outputs=spec)
    outputs = llm.generate("hello", wish)[0].outputs
    assert {output.finish_reason for output in outputs} == {"stop"}
    return [output.text for output in outputs]


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=5)
SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.lists(WORDS | st.integers(-9, 9), min_size=1, max_size=4, unique=True).map(lambda v: {"enum": v}),
    WORDS.map(lambda v: {"const": v}),
    st.tuples(st.integers(-50, 50), st.integers(0, 30)).map(
        lambda t: {"type": "integer", "minimum": t[0], "maximum": t[0] + t[1]}
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
        lambda t: {"type": "string", "minLength": t[0], "maxLength": t[0] + t[1]}
    ),
    st.just({"type": "string", "pattern": "^[a-f]{2,4}-[0-9]$"}),
    st.just({"type": "string", "format": "date"}),
    st.just({"type": ["null", "boolean"]}),
)


def _object(inner: dict[str, dict[str, Any]], needed: int) -> dict[str, Any]:
    required = list(inner)[:needed]
    return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def _deeper(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(_object, st.dictionaries(WORDS, inner, max_size=3), st.integers(0, 3)),
        st.tuples(inner, st.integers(0, 2)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + 1}
        ),
        st.tuples(inner, inner).map(lambda t: {"anyOf": list(t)}),
        st.tuples(inner, inner).map(lambda t: {"$defs": {"x": t[0]}, "anyOf": [{"$ref": "#/$defs/x"}, t[1]]}),
    )


SCHEMAS = st.recursive(SCALARS, _deeper, max_leaves=4)


def _nested_definitions(schema: Any, top: bool = True) -> bool:
    """Whether ``$defs`` lie somewhere else than at the top: their references may lead nowhere."""
    inside = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    here = isinstance(schema, dict) and "$defs" in schema and not top
    return here or any(_nested_definitions(v, False) for v in inside)


@given(schema=SCHEMAS, seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_to_a_schema_always_validate(llm: LLM, schema: dict[str, Any], seed: int) -> None:
    assume(not _nested_definitions(schema))
    spec = {"json": schema, "disable_any_whitespace": True}
    for text in [*answers(llm, spec, temperature=0.0), *answers(llm, spec, seed=seed, n=3, temperature=1.5)]:
        jsonschema.validate(json.loads(text), schema)


def test_a_schema_may_be_text_and_blank_space_is_bounded(llm: LLM) -> None:
    for text in answers(llm, {"json": json.dumps(PERSON)}, n=4):
        jsonschema.validate(json.loads(text), PERSON)
        assert re.search(r"\s{33}", text) is None
    assert " " not in answers(llm, {"json": PERSON, "disable_any_whitespace": True})[0]


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"n": 3}, {"n": 2, "best_of": 4, "logprobs": 1}])
def test_expressions_choices_and_grammars_are_exact(llm: LLM, params: dict[str, Any]) -> None:
    choices = ["yes", "no", "不是", '"\\\n']
    assert set(answers(llm, StructuredOutputs(choice=choices), **params)) <= set(choices)
    for text in answers(llm, {"regex": r"[a-c]{3}x\d"}, **params):
        assert re.fullmatch(r"[a-c]{3}x\d", text)
    assert set(answers(llm, {"grammar": 'root ::= "hi " ("bob" | "al")'}, **params)) <= {"hi bob", "hi al"}
    assert set(answers(llm, {"grammar": 'start: "a"~2..3 "!"'}, **params)) <= {"aa!", "aaa!"}


def test_stop_strings_end_an_answer_as_ever(llm: LLM) -> None:
    wish = SamplingParams(structured_outputs={"regex": "x{4}-y{4}"}, stop=("-",), max_tokens=40, temperature=0.0)
    output = llm.generate("hello", wish)[0].outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("xxxx", "stop", "-")


def test_min_and_max_tokens(llm: LLM) -> None:
    spec = {"regex": "[a-c]{2,60}"}
    for least in (1, 9):
        output = llm.generate("x", SamplingParams(structured_outputs=spec, min_tokens=least, max_tokens=60))[0].outputs[
            0
        ]
        assert len(output.token_ids) >= least
        assert re.fullmatch("[a-c]{2,60}", output.text)
    padded = llm.generate("x", SamplingParams(structured_outputs={"choice": ["a"]}, min_tokens=6, max_tokens=9))[0]
    assert padded.outputs[0].text == "a"
    assert len(padded.outputs[0].token_ids) >= 6
    cut = llm.generate("x", SamplingParams(structured_outputs={"regex": "a{30}"}, max_tokens=3))[0].outputs[0]
    assert (cut.finish_reason, set(cut.text)) == ("length", {"a"})
    unending = SamplingParams(structured_outputs={"regex": "a{2}"}, ignore_eos=True, max_tokens=12)
    assert llm.generate("x", unending)[0].outputs[0].text == "aa"


def test_with_logit_bias_and_allowed_tokens(llm: LLM) -> None:
    a, b = (llm.get_tokenizer().encode(t)[0] for t in "ab")
    assert answers(llm, {"regex": "[ab]{5}"}, logit_bias={b: 100}) == ["bbbbb"]
    assert answers(llm, {"regex": "[ab]{5}"}, allowed_token_ids=(a, 2)) == ["aaaaa"]
    for allowed in (a, 0):  # known when the answer should end, or at once
        with pytest.raises(RequestError, match="none of the tokens"):
            answers(llm, {"regex": "[ab]{5}"}, allowed_token_ids=(allowed,))


def test_streams_say_the_same(llm: LLM) -> None:
    params = SamplingParams(structured_outputs={"json": PERSON}, max_tokens=200, seed=3)
    whole = llm.generate("hello", params)[0].outputs[0].text
    assert "".join(output.outputs[0].text for output in llm.stream("hello", params)) == whole
    assert json.loads(whole)["name"] in ("Ann", "王")


def test_many_requests_at_once_each_with_its_own(llm: LLM) -> None:
    wishes = [SamplingParams(structured_outputs={"regex": f"[{i}]{{{i + 1}}}"}, max_tokens=30) for i in range(8)]
    plain = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
    outputs = llm.generate(["hello"] * 9, [*wishes, plain])
    assert [o.outputs[0].text for o in outputs[:8]] == [str(i) * (i + 1) for i in range(8)]
    assert list(outputs[8].outputs[0].token_ids) == list(llm.generate("hello", plain)[0].outputs[0].token_ids)


async def test_asynchronous_callers_compile_beside_the_engine(folder: Path) -> None:
    async def one(llm: AsyncLLM, i: int) -> str:
        params = SamplingParams(structured_outputs={"regex": f"[{i}-9]{{3}}"}, max_tokens=20, seed=i)
        return [output.outputs[0].text async for output in llm.generate("hello", params)][-1]

    async with AsyncLLM(folder, **OPTIONS) as llm:
        texts = await asyncio.gather(*(one(llm, i) for i in range(6)))
        assert all(re.fullmatch(f"[{i}-9]{{3}}", text) for i, text in enumerate(texts))
        with pytest.raises(RequestError, match="without end"):
            async for _ in llm.generate("x", SamplingParams(structured_outputs={"json": {"$ref": "#"}})):
                pass
        assert await llm.call(lambda: llm.model.engine.has_work) is False


def test_a_refused_request_runs_nothing(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"\(a\+\)\+"):
        llm.generate("hello", SamplingParams(structured_outputs={"regex": "(a+)+"}))
    with pytest.raises(RequestError, match="mapping"):
        SamplingParams(structured_outputs="[a-z]")  # type: ignore[arg-type]
    assert not llm.model.engine.has_work
    assert llm.frontend.num_live == 0


def test_without_a_tokenizer_it_is_refused(folder: Path) -> None:
    with LLM(folder, skip_tokenizer_init=True, **OPTIONS) as llm:
        with pytest.raises(RequestError, match="needs a tokenizer"):
            llm.generate([[1, 2]], SamplingParams(structured_outputs={"regex": "a"}))


def test_beams_keep_to_the_grammar(llm: LLM) -> None:
    beams = {"n": 3, "use_beam_search": True, "temperature": 0.0}
    for text in answers(llm, {"regex": "[a-c]{2,4}x"}, **beams):
        assert re.fullmatch("[a-c]{2,4}x", text)
    for text in answers(llm, {"json": PERSON, "disable_any_whitespace": True}, **beams):
        jsonschema.validate(json.loads(text), PERSON)
