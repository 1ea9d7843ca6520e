"""The builder: one snapshot that reads like a forward function, and each fact's mark on the program."""

from __future__ import annotations

import pytest

from penstock.models.architecture import Architecture
from penstock.models.decoder import build
from penstock.models.program import Program
from tests.models.some import ARCHITECTURES

LLAMA = """\
program llama: 31 ops, 21 weights, 2 cache layers
  embed = embed(ids, %embed.weight) {scale=1}  [tokens, 16]
  layers.0.attn_norm = norm(embed, %layers.0.attn_norm.weight) {norm=rms eps=1e-05}  [tokens, 16]
  layers.0.attn.q, layers.0.attn.k, layers.0.attn.v = linear(layers.0.attn_norm, %layers.0.attn.q.weight, \
%layers.0.attn.k.weight, %layers.0.attn.v.weight)  [tokens, 16] [tokens, 8] [tokens, 8]
  angles = angles(positions) {inv_freq=angles.inv_freq scale=1 dim=4 length=none theta=10000 factor=1 scale_long=1}  \
[tokens, 4]
  layers.0.attn.q_rope = rope(layers.0.attn.q, angles) {head_dim=4 dim=4}  [tokens, 16]
  layers.0.attn.k_rope = rope(layers.0.attn.k, angles) {head_dim=4 dim=4}  [tokens, 8]
  - = store(layers.0.attn.k_rope, layers.0.attn.v) {layer=0}
  layers.0.attn = attention(layers.0.attn.q_rope) {layer=0 heads=4 kv_heads=2 head_dim=4 scale=0.5}  [tokens, 16]
  layers.0.attn.o = linear(layers.0.attn, %layers.0.attn.o.weight)  [tokens, 16]
  layers.0.attn.sum = add(embed, layers.0.attn.o)  [tokens, 16]
  layers.0.mlp_norm = norm(layers.0.attn.sum, %layers.0.mlp_norm.weight) {norm=rms eps=1e-05}  [tokens, 16]
  layers.0.mlp.gate, layers.0.mlp.up = linear(layers.0.mlp_norm, %layers.0.mlp.gate.weight, \
%layers.0.mlp.up.weight)  [tokens, 12] [tokens, 12]
  layers.0.mlp.act = gated(layers.0.mlp.gate, layers.0.mlp.up) {activation=silu}  [tokens, 12]
  layers.0.mlp.down = linear(layers.0.mlp.act, %layers.0.mlp.down.weight)  [tokens, 16]
  layers.0.mlp.sum = add(layers.0.attn.sum, layers.0.mlp.down)  [tokens, 16]
"""
END = """\
  final_norm = norm(layers.1.mlp.sum, %final_norm.weight) {norm=rms eps=1e-05}  [tokens, 16]
  last = select(final_norm)  [logits, 16]
  head = linear(last, %head.weight)  [logits, 30]
  return logits=head, hidden=final_norm"""


def program(name: str) -> Program:
    return build(ARCHITECTURES[name])


def kinds(name: str) -> list[str]:
    return [op.kind for op in program(name).ops]


def test_a_llama_of_two_layers() -> None:
    text = str(program("llama"))
    assert text.startswith(LLAMA)
    assert text.endswith(END)


def test_angles_are_computed_once_for_all_layers() -> None:
    assert kinds("llama").count("angles") == 1
    assert kinds("llama").count("rope") == 4
    assert kinds("two ropes").count("angles") == 2
    assert kinds("two ropes").count("rope") == 8


def test_canonical_weight_names() -> None:
    names = set(program("shared expert").weights)
    assert {
        "embed.weight", "final_norm.weight", "head.weight", "layers.1.moe.router.weight", "layers.1.moe.gate.weight",
        "layers.0.moe.shared.down.weight", "layers.0.moe.shared_gate.weight", "layers.0.attn.o.weight",
    } <= names  # fmt: skip
    spec = program("moe").weights["layers.0.moe.down.weight"]
    assert (spec.shape, spec.kind) == ((5, 16, 6), "experts")


def test_a_tied_head_is_the_embedding() -> None:
    post = program("post")
    assert "head.weight" not in post.weights
    assert post.weights["embed.weight"].kind == "matrix"
    assert post.weights["embed.weight"].shape == (30, 10)
    assert program("llama").weights["embed.weight"].kind == "table"
    assert post.outputs == {"logits": "head", "hidden": "head_proj"}
    assert post.weights["positions.weight"].shape == (66, 16)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_is_what_the_head_reads_for_every_token(name: str) -> None:
    p = program(name)
    (select,) = [op for op in p.ops if op.kind == "select"]
    assert select.inputs == (p.outputs["hidden"],)
    assert p.values[p.outputs["hidden"]].rows == "tokens"
    assert p.values[p.outputs["logits"]].rows == "logits"
    assert p.values[p.outputs["logits"]].width == 30


def only(name: str, kind: str) -> list[dict[str, object]]:
    return [dict(op.attrs) for op in program(name).ops if op.kind == kind]


def test_facts_of_attention_become_attributes() -> None:
    attention = only("window", "attention")[0]
    assert (attention["window"], attention["softcap"]) == (3, 5.0)
    assert program("window").kv[1].window == 3
    assert only("log n", "attention")[0]["log_n"] == 4
    assert only("two ropes", "attention")[0]["bidirectional"] is True
    alibi = only("alibi", "attention")
    assert [a["alibi"] for a in alibi] == ["alibi", "alibi"]
    assert program("alibi").constants == {"alibi": (0.5, 0.25, 0.125, 0.0625)}


def test_facts_of_rotation_become_attributes() -> None:
    first, second = only("two ropes", "angles")
    assert (first["channel"], second["channel"]) == (0, 1)
    assert [r["start"] for r in only("two ropes", "rope")[:4]] == [0, 0, 2, 2]
    assert only("partial", "rope")[0] == {"head_dim": 4, "dim": 2, "start": 0, "interleaved": True}
    angles = only("dynamic", "angles")[0]
    assert (angles["length"], angles["original"], angles["factor"], angles["theta"]) == ("dynamic", 6, 2.0, 10000.0)
    angles = only("longrope", "angles")[0]
    assert angles["inv_freq_long"] == "angles.inv_freq_long"
    assert angles["scale"] == angles["scale_long"] == pytest.approx((1 + 0.2) ** 0.5)


def sums(name: str) -> list[tuple[str, ...]]:
    return [op.inputs for op in program(name).ops if op.kind == "add"][:2]


def test_residuals() -> None:
    assert sums("llama") == [("embed", "layers.0.attn.o"), ("layers.0.attn.sum", "layers.0.mlp.down")]
    assert sums("parallel shared") == sums("llama")
    reads = {op.outputs[0]: op.inputs for op in program("parallel shared").ops if op.outputs}
    assert reads["layers.0.mlp.gate"] == ("layers.0.attn_norm",)
    assert "layers.0.mlp_norm.weight" not in program("parallel shared").weights
    reads = {op.outputs[0]: op.inputs for op in program("parallel").ops if op.outputs}
    assert reads["layers.0.mlp_norm"] == ("embed",)
    assert sums("post norms")[0] == ("embed", "layers.0.attn_post_norm")
    assert sums("scaled residual") == [
        ("layers.0.attn.residual", "layers.0.attn.o"), ("layers.0.mlp.residual", "layers.0.mlp.down"),
    ]  # fmt: skip
    reads = {op.outputs[0]: op.inputs for op in program("scaled residual").ops if op.outputs}
    assert reads["layers.0.attn.residual"] == ("layers.0.attn_norm",)


def test_the_head() -> None:
    assert kinds("head")[-4:] == ["select", "linear", "scale", "softcap"]
    assert program("head").weights["head.bias"].shape == (30,)
    assert only("head", "embed")[0]["scale"] == 4.0


def test_programs_of_equal_facts_are_equal() -> None:
    arch: Architecture = ARCHITECTURES["moe"]
    assert build(arch) == build(arch)
