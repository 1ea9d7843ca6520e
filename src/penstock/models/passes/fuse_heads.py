"""Norm per head, rotation and store of one layer's queries and keys as one op."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from penstock.models.program import Op, Program, Scalar


@dataclass(frozen=True, slots=True)
class _Branch:
    """What q or k goes through: the value it starts from, and the ops that can be taken in."""

    source: str
    rope: Op | None
    norm: Op | None

    @property
    def ops(self) -> list[Op]:
        return [op for op in (self.rope, self.norm) if op is not None]


def fuse_heads(program: Program) -> Program:
    """qk_rope_store for every layer whose q and k go through the same rotation (the last one of several), the same kind
    of norm, or both."""
    count = Counter([n for op in program.ops for n in op.inputs] + list(program.outputs.values()))
    maker = {name: op for op in program.ops for name in op.outputs}
    place = {id(op): i for i, op in enumerate(program.ops)}
    stores = {op.attrs["layer"]: op for op in program.ops if op.kind == "store"}
    replaced: dict[int, Op] = {}
    removed: set[int] = set()
    for attention in (op for op in program.ops if op.kind == "attention"):
        store = stores.get(attention.attrs["layer"])
        if store is None:
            continue
        head_dim = int(attention.attrs["head_dim"])
        q = _branch(program, attention.inputs[0], maker, count, head_dim, shared_end=True)
        k = _branch(program, store.inputs[0], maker, count, head_dim, shared_end=False)
        if not _alike(q, k):
            continue
        at = max(place[id(op)] for op in (store, *q.ops, *k.ops))
        readers = list(program.consumers(attention.inputs[0]))
        if at > min(readers, default=-1):
            continue
        replaced[at] = _fused(attention, store, q, k)
        removed |= {place[id(op)] for op in (store, *q.ops, *k.ops)}
    ops = tuple(replaced.get(i, op) for i, op in enumerate(program.ops) if i in replaced or i not in removed)
    return program.with_ops(ops)


def _branch(
    program: Program, value: str, maker: dict[str, Op], count: Counter[str], head_dim: int, *, shared_end: bool
) -> _Branch:
    """Walk back from the value that attention or store reads; q's own end may be read by others, nothing between."""
    rope = norm = None
    for kind in ("rope", "norm"):
        op = maker.get(value)
        if op is None or op.kind != kind or (count[value] != 1 and not (shared_end and rope is None and norm is None)):
            continue
        if kind == "rope" and op.attrs["head_dim"] == head_dim:
            rope, value = op, op.inputs[0]
        elif kind == "norm" and _per_head(program, op, head_dim):
            norm, value = op, op.inputs[0]
    return _Branch(value, rope, norm)


def _per_head(program: Program, norm: Op, head_dim: int) -> bool:
    """A norm over heads, with one weight for all of them and no bias."""
    shape = program.weights[norm.weights[0]].shape
    return norm.attrs["group"] == head_dim and shape == (head_dim,) and not any(norm.weights[1:])


def _alike(q: _Branch, k: _Branch) -> bool:
    """Whether one op can do for both what their own ops do."""
    if [op.kind for op in q.ops] != [op.kind for op in k.ops] or not q.ops:
        return False
    if any(dict(a.attrs) != dict(b.attrs) for a, b in zip(q.ops, k.ops, strict=True)):
        return False
    return q.rope is None or k.rope is None or q.rope.inputs[1] == k.rope.inputs[1]


def _fused(attention: Op, store: Op, q: _Branch, k: _Branch) -> Op:
    attrs: dict[str, Scalar] = {
        "layer": attention.attrs["layer"], "heads": attention.attrs["heads"], "kv_heads": attention.attrs["kv_heads"],
        "head_dim": attention.attrs["head_dim"], "dim": 0, "start": 0, "interleaved": False,
        "norm": "none", "eps": 0.0, "plus_one": False,
    }  # fmt: skip
    inputs: tuple[str, ...] = (q.source, k.source, store.inputs[1])
    weights: tuple[str, ...] = ("", "")
    if q.rope is not None:
        attrs.update({key: q.rope.attrs[key] for key in ("dim", "start", "interleaved")})
        inputs = (*inputs, q.rope.inputs[1])
    if q.norm is not None and k.norm is not None:
        attrs.update({key: q.norm.attrs[key] for key in ("norm", "eps", "plus_one")})
        weights = (q.norm.weights[0], k.norm.weights[0])
    return Op("qk_rope_store", inputs, (attention.inputs[0],), weights, attrs)
