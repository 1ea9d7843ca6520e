"""A program prints, goes through JSON unchanged, and is refused when it does not hang together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from penstock.models.decoder import build
from penstock.models.program import OPS, Op, Program, Value, check
from tests.models.some import ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_json_gives_an_equal_program(name: str) -> None:
    program = build(ARCHITECTURES[name])
    assert Program.from_json(program.to_json()) == program


def test_another_version_is_refused() -> None:
    text = build(ARCHITECTURES["llama"]).to_json()
    with pytest.raises(ValueError, match="program format 99"):
        Program.from_json(json.dumps({**json.loads(text), "version": 99}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_op_has_the_attributes_weights_and_outputs_that_ops_states(name: str) -> None:
    for op in build(ARCHITECTURES[name]).ops:
        stated = OPS[op.kind]
        assert set(op.attrs) == set(stated.attrs.split())
        assert len(op.inputs) == len(stated.inputs.split())
        assert len(op.outputs) == len(stated.outputs.split()) or stated.outputs == "y*"
        assert len(op.weights) == len(stated.weights.split()) or (op.kind == "linear" and len(op.weights) % 2 == 0)


def broken(program: Program, index: int, op: Op) -> Program:
    return replace(program, ops=(*program.ops[:index], op, *program.ops[index + 1 :]))


def test_check_tells_what_is_wrong() -> None:
    program = build(ARCHITECTURES["llama"])
    norm = program.ops[1]
    assert norm.kind == "norm"
    for bad, complaint in (
        (replace(norm, kind="nrom"), "unknown kind"),
        (replace(norm, inputs=("later",)), "'later' is used before it is defined"),
        (replace(norm, weights=("w", "")), "weight 'w' is undeclared"),
        (replace(norm, attrs={"eps": 1.0}), "attributes are"),
        (replace(norm, outputs=("nowhere",)), "'nowhere' is undeclared or defined twice"),
        (replace(norm, outputs=("embed",)), "'embed' is undeclared or defined twice"),
    ):
        with pytest.raises(ValueError, match=complaint):
            check(broken(program, 1, bad))
    with pytest.raises(ValueError, match=r"constant 'angles\.inv_freq' is undeclared"):
        check(replace(program, constants={}))
    with pytest.raises(ValueError, match="output 'z' is never computed"):
        check(replace(program, outputs={"logits": "z"}))


def test_new_ops_drop_values_that_nothing_touches() -> None:
    program = build(ARCHITECTURES["llama"])
    fewer = program.with_ops(program.ops[:2], {"spare": Value("spare", 3)})
    assert "spare" not in fewer.values
    assert "layers.0.attn.q" not in fewer.values
    assert {"ids", "embed", "layers.0.attn_norm", "head", "final_norm"} <= set(fewer.values)


def test_consumers() -> None:
    program = build(ARCHITECTURES["llama"])
    readers = [program.ops[i].kind for i in program.consumers("embed")]
    assert readers == ["norm", "add"]
