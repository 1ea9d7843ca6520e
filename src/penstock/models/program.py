"""The program: a decoder as a flat list of ops over named values and named weights. Plain data.

Every value is a float32 matrix ``[rows, width]``; rows are the step's tokens, or only the rows whose logits are wanted
(after ``select``). Inputs are the integer values ``ids`` and ``positions`` of the batch. ``OPS`` states what each kind
takes; its reference meaning is the plain executor in ``executors/torch``. Passes are pure functions Program -> Program.
Every attribute that ``OPS`` names is present on every op, an absent feature as 0, 0.0, "" or False. Outputs: ``logits``
(rows ``logits``) and ``hidden`` (rows ``tokens``; what the head reads).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Scalar = int | float | str | bool
Rows = Literal["tokens", "logits"]
FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Value:
    """A named matrix ``[rows, width]``; ``dtype`` is ``f32`` except for the integer inputs (``i32``)."""

    name: str
    width: int
    rows: Rows = "tokens"
    dtype: Literal["f32", "i32"] = "f32"


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """A named weight under its canonical name.

    ``matrix`` [n, k]: used by a linear (y = x W^T) and perhaps gathered by ``embed`` (tied). ``table`` [n, k]: gathered
    only. ``vector`` [n]: norm weights, biases ([heads, n] where
    each head has its own norm). ``experts`` [experts, n, k]. Which format the numbers have is the
    scheme's affair (``quant/``), not the program's.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "table", "vector", "experts"]


@dataclass(frozen=True, slots=True)
class KVSpec:
    """What one layer keeps per cached token: ``kv_heads`` keys and values of ``head_dim``; ``window`` if it forgets."""

    kv_heads: int
    head_dim: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. ``weights`` are names in the order that OPS states, ``""`` where an optional one is absent.

    ``attrs`` are scalars (`Scalar`).
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        args = ", ".join([*self.inputs, *(f"%{w}" for w in self.weights if w)])
        shown = {k: v for k, v in self.attrs.items() if k == "layer" or v not in ("", 0, False)}
        attrs = " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items())
        return f"{', '.join(self.outputs) or '-'} = {self.kind}({args}){' {' + attrs + '}' if attrs else ''}"


@dataclass(frozen=True, slots=True)
class OpDef:
    """What an op kind takes: names of inputs, outputs, weights (``?`` optional, ``*`` repeated) and attributes."""

    inputs: str
    outputs: str
    weights: str
    attrs: str
    meaning: str


# fmt: off
OPS: dict[str, OpDef] = {
    "embed": OpDef("ids", "y", "weight", "scale", "y = weight[ids] * scale"),
    "embed_positions": OpDef("positions", "y", "weight", "offset channel", "y = weight[positions[channel] + offset]"),
    "norm": OpDef(
        "x", "y", "weight bias?", "norm eps plus_one group",
        "`norm` rms | layer, over groups of `group` elements (0: the whole row), all with one weight if it has `group` "
        "elements (else it is [groups, group]); statistics in float32; `plus_one`: times (1 + weight)",
    ),
    "linear": OpDef("x", "y*", "(weight bias?)*", "", "y_i = x weight_i^T + bias_i for each of the outputs"),
    "angles": OpDef(
        "positions", "cs", "",
        "inv_freq scale channel dim length theta factor original inv_freq_long scale_long",
        "cs [dim] = [cos | sin] of f32(positions[channel]) * inv_freq (rounded to float32), times `scale`; `inv_freq` "
        "names a constant [dim / 2]; `length` none | dynamic | longrope | qwen_ntk changes it by token (see rope.py)",
    ),
    "rope": OpDef(
        "x cs", "y", "", "head_dim dim start interleaved",
        "rotate elements start..start+dim of every head of x by the angles; the rest is passed through",
    ),
    "store": OpDef("k v", "", "", "layer", "write k and v rows into the layer's cache at Batch.slots"),
    "attention": OpDef(
        "q", "y", "", "layer heads kv_heads head_dim scale window softcap alibi log_n bidirectional",
        "softmax(mask(q K^T * scale)) V over the sequence's cache, this step's stored rows included. `alibi` names a "
        "constant [heads]: score += slope * (key row - query row); `bidirectional`: Batch.bidirectional counts",
    ),
    "gated": OpDef("gate up", "y", "", "activation", "y = activation(gate) * up; silu | gelu | gelu_tanh | relu"),
    "activation": OpDef("x", "y", "", "activation", "y = activation(x)"),
    "add": OpDef("a b", "y", "", "", "y = a + b"),
    "scale": OpDef("x", "y", "", "factor", "y = x * factor"),
    "gate": OpDef("x g", "y", "", "", "y = x * sigmoid(g); g has width 1"),
    "moe": OpDef(
        "x router", "y", "gate up down", "experts top_k renormalise activation width adapted",
        "p = softmax(router), the top_k largest (ties: lowest index), divided by their sum if `renormalise`; "
        "sum over the chosen experts of p_e * down_e(activation(gate_e(x)) * up_e(x)). `adapted` (by a pass): "
        "as with a `lora` behind each gate_e, up_e and down_e, its target `weight[e]`; rows are those of tokens",
    ),
    "select": OpDef("x", "y", "", "", "y = the rows of x whose logits are wanted (Batch.logits_rows)"),
    "softcap": OpDef("x", "y", "", "cap", "y = cap * tanh(x / cap)"),
    # made by passes only
    "lora": OpDef(
        "x y", "z", "", "target logits",
        "z = y + scale * B (A x) for rows of sequences whose adapter (Batch.adapters) has A [r, k], B [n, r] for the "
        "weight named `target`; other rows are y bit for bit. `logits`: rows are those of `select`",
    ),
    "fused_linear": OpDef(
        "x residual?", "y*", "(weight bias?)* norm_weight? norm_bias?",
        "parts norm eps plus_one residual activation",
        "`norm` none | rms | layer of x (weights: the linears' pairs, then the norm's pair unless none), then `parts` "
        'linears; then `activation` (or ""): y = act(y_0) * y_1, or `residual` true: y = residual + y_0',
    ),
    "qk_rope_store": OpDef(
        "q k v cs?", "y", "q_norm? k_norm?", "layer heads kv_heads head_dim dim start interleaved norm eps plus_one",
        "`norm` none | rms | layer per head of q and k, rotate both (`dim` 0: no rotation, no cs), store k and v; "
        "y is the rotated q",
    ),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Program:
    """A decoder. ``constants`` are float32 vectors named by op attributes (``inv_freq``, ``alibi``)."""

    name: str
    ops: tuple[Op, ...]
    values: Mapping[str, Value]
    weights: Mapping[str, WeightSpec]
    kv: tuple[KVSpec, ...]
    outputs: Mapping[str, str]
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def with_ops(self, ops: tuple[Op, ...], values: Mapping[str, Value] | None = None) -> Program:
        """This program with other ops; values that no op touches any more are dropped."""
        pool = {**self.values, **(values or {})}
        used = {n for op in ops for n in (*op.inputs, *op.outputs)} | set(self.outputs.values())
        return replace(self, ops=ops, values={n: v for n, v in pool.items() if n in used})

    def consumers(self, value: str) -> Iterator[int]:
        """Indexes of the ops that read ``value``."""
        return (i for i, op in enumerate(self.ops) if value in op.inputs)

    def __str__(self) -> str:
        lines = [f"program {self.name}: {len(self.ops)} ops, {len(self.weights)} weights, {len(self.kv)} cache layers"]
        for op in self.ops:
            shape = " ".join(f"[{self.values[o].rows}, {self.values[o].width}]" for o in op.outputs)
            lines.append(f"  {op}  {shape}".rstrip())
        lines.append("  return " + ", ".join(f"{k}={v}" for k, v in self.outputs.items()))
        return "\n".join(lines)

    def to_json(self) -> str:
        """A stable text form; :meth:`from_json` gives an equal program back."""
        data = {
            "version": FORMAT_VERSION,
            "name": self.name,
            "ops": [asdict(op) for op in self.ops],
            "values": [asdict(v) for v in self.values.values()],
            "weights": [asdict(w) for w in self.weights.values()],
            "kv": [asdict(k) for k in self.kv],
            "outputs": dict(self.outputs),
            "constants": {k: list(v) for k, v in self.constants.items()},
        }
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Program:
        """Read :meth:`to_json`'s form. Raises ``ValueError`` for another version or an inconsistent program."""
        data: dict[str, Any] = json.loads(text)
        if data.get("version") != FORMAT_VERSION:
            raise ValueError(f"program format {data.get('version')!r} is not {FORMAT_VERSION}")
        program = Program(
            name=data["name"],
            ops=tuple(
                Op(o["kind"], tuple(o["inputs"]), tuple(o["outputs"]), tuple(o["weights"]), o["attrs"])
                for o in data["ops"]
            ),
            values={v["name"]: Value(**v) for v in data["values"]},
            weights={w["name"]: WeightSpec(w["name"], tuple(w["shape"]), w["kind"]) for w in data["weights"]},
            kv=tuple(KVSpec(**k) for k in data["kv"]),
            outputs=data["outputs"],
            constants={k: tuple(v) for k, v in data["constants"].items()},
        )
        check(program)
        return program


def check(program: Program) -> None:
    """Raise ``ValueError`` unless every op is known and complete and every name is defined before use, once."""
    known = {n for n, v in program.values.items() if v.dtype == "i32"}
    for i, op in enumerate(program.ops):
        where = f"op {i} ({op.kind})"
        if op.kind not in OPS:
            raise ValueError(f"{where}: unknown kind")
        if set(op.attrs) != set(OPS[op.kind].attrs.split()):
            raise ValueError(f"{where}: attributes are {sorted(op.attrs)}, not {sorted(OPS[op.kind].attrs.split())}")
        for name in op.inputs:
            if name not in known:
                raise ValueError(f"{where}: value '{name}' is used before it is defined")
        for name in op.weights:
            if name and name not in program.weights:
                raise ValueError(f"{where}: weight '{name}' is undeclared")
        for key in ("inv_freq", "inv_freq_long", "alibi"):
            if op.attrs.get(key) and op.attrs[key] not in program.constants:
                raise ValueError(f"{where}: constant '{op.attrs[key]}' is undeclared")
        for name in op.outputs:
            if name not in program.values or name in known:
                raise ValueError(f"{where}: value '{name}' is undeclared or defined twice")
            known.add(name)
    for name in program.outputs.values():
        if name not in known:
            raise ValueError(f"output '{name}' is never computed")
