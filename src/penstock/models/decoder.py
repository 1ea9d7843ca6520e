"""The one builder: an :class:`Architecture` becomes a :class:`Program`. Read it as a forward function.

Values are named after what computes them (``layers.3.attn.q``), weights by the canonical names:

    embed.weight  positions.weight  embed_norm.*  embed_proj.weight
    layers.{i}.attn_norm.*  layers.{i}.attn.{q,k,v,o}.*  layers.{i}.attn.{q_norm,k_norm}.*  layers.{i}.attn_post_norm.*
    layers.{i}.mlp_norm.*   layers.{i}.mlp.{gate,up,down}.*                                 layers.{i}.mlp_post_norm.*
    layers.{i}.moe.router.weight  layers.{i}.moe.{gate,up,down}.weight [experts, n, k]
    layers.{i}.moe.shared.{gate,up,down}.weight  layers.{i}.moe.shared_gate.weight
    final_norm.*  head_proj.weight  head.{weight,bias}
"""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import Architecture, Attention, Block, Mlp, Moe, Norm, Rope
from penstock.models.program import KVSpec, Op, Program, Scalar, Value, WeightSpec, check
from penstock.models.rope import frequencies


def build(arch: Architecture) -> Program:
    """The decoder of ``arch``, with the outputs ``logits`` and ``hidden`` (what the head reads, for every token)."""
    b = _Builder(arch)
    x = b.embed()
    for i, block in enumerate(arch.blocks):
        x = b.block(f"layers.{i}", i, block, x)
    hidden = b.final(x)
    logits = b.head(hidden)
    program = Program(
        arch.family, tuple(b.ops), b.values, b.weights,
        tuple(KVSpec(a.kv_heads, a.head_dim, a.window) for a in (block.attention for block in arch.blocks)),
        {"logits": logits, "hidden": hidden}, b.constants,
    )  # fmt: skip
    check(program)
    return program


class _Builder:
    """Collects ops; each method adds some and returns the names of the values they make."""

    def __init__(self, arch: Architecture) -> None:
        self.arch = arch
        self.ops: list[Op] = []
        self.values: dict[str, Value] = {
            "ids": Value("ids", 1, dtype="i32"),
            "positions": Value("positions", arch.position_channels, dtype="i32"),
        }
        self.weights: dict[str, WeightSpec] = {}
        self.constants: dict[str, tuple[float, ...]] = {}
        self._angles: dict[Rope, str] = {}

    # ------------------------------------------------------------------------------------------ the forward function

    def embed(self) -> str:
        e, hidden = self.arch.embedding, self.arch.hidden_size
        table = self._weight(
            "embed.weight", (self.arch.vocab_size, e.width or hidden), "matrix" if self.arch.head.tied else "table"
        )
        x = self._op("embed", "embed", ("ids",), e.width or hidden, (table,), scale=e.scale)
        if e.width is not None and e.width != hidden:
            x = self.linear("embed_proj", x, hidden)
        if e.positions:
            rows = self._weight("positions.weight", (e.positions + e.position_offset, hidden), "table")
            offset = e.position_offset
            p = self._op(
                "embed_positions", "positions.embed", ("positions",), hidden, (rows,), offset=offset, channel=0
            )
            x = self._op("add", "embed.positioned", (x, p), hidden)
        return self.norm("embed_norm", x, e.norm) if e.norm else x

    def block(self, at: str, layer: int, block: Block, x: str) -> str:
        if block.residual_norm_scale is not None:
            return self._scaled_block(at, layer, block, x, block.residual_norm_scale)
        if block.norm_position == "post":
            x = self.add(f"{at}.attn.sum", x, self.attention(at, layer, block, x))
            x = self.norm(f"{at}.attn_norm", x, block.norm)
            return self.norm(f"{at}.mlp_norm", self.add(f"{at}.mlp.sum", x, self.feed(at, block, x)), block.norm)
        n = self.norm(f"{at}.attn_norm", x, block.norm)
        attended = self.attention(at, layer, block, n)
        if block.residual == "sequential":
            x = self.add(f"{at}.attn.sum", x, attended)
            return self.add(f"{at}.mlp.sum", x, self.feed(at, block, self.norm(f"{at}.mlp_norm", x, block.norm)))
        m = n if block.residual == "parallel_shared" else self.norm(f"{at}.mlp_norm", x, block.norm)
        return self.add(f"{at}.mlp.sum", self.add(f"{at}.attn.sum", x, attended), self.feed(at, block, m))

    def _scaled_block(self, at: str, layer: int, block: Block, x: str, factor: float) -> str:
        """What is added to is the normalised input (some BLOOMs), times a factor (ChatGLM-6B)."""
        n = self.norm(f"{at}.attn_norm", x, block.norm)
        kept = self.scale(f"{at}.attn.residual", n, factor)
        x = self.add(f"{at}.attn.sum", kept, self.attention(at, layer, block, n))
        n = self.norm(f"{at}.mlp_norm", x, block.norm)
        kept = self.scale(f"{at}.mlp.residual", n, factor)
        return self.add(f"{at}.mlp.sum", kept, self.feed(at, block, n))

    def attention(self, at: str, layer: int, block: Block, x: str) -> str:
        a = block.attention
        q, k, v = self.linears(
            [(f"{at}.attn.q", a.q_width), (f"{at}.attn.k", a.kv_width), (f"{at}.attn.v", a.kv_width)], x, a.qkv_bias
        )
        if a.qk_norm is not None:
            group = a.head_dim if a.qk_norm_per_head else 0
            q = self.norm(f"{at}.attn.q_norm", q, a.qk_norm, group, a.qk_norm_shared)
            k = self.norm(f"{at}.attn.k_norm", k, a.qk_norm, group, a.qk_norm_shared)
        for n, rope in enumerate(a.ropes):
            cs = self.angles(rope)
            q = self._rotate(f"{at}.attn.q_rope{n or ''}", q, cs, a, rope)
            k = self._rotate(f"{at}.attn.k_rope{n or ''}", k, cs, a, rope)
        self.ops.append(Op("store", (k, v), (), (), {"layer": layer}))
        y = self._op(
            "attention", f"{at}.attn", (q,), a.q_width,
            layer=layer, heads=a.heads, kv_heads=a.kv_heads, head_dim=a.head_dim, scale=a.scale, window=a.window or 0,
            softcap=a.softcap or 0.0, alibi=self._alibi(a), log_n=a.log_n or 0, bidirectional=a.bidirectional_prompt,
        )  # fmt: skip
        y = self.linear(f"{at}.attn.o", y, self.arch.hidden_size, a.out_bias)
        return self.norm(f"{at}.attn_post_norm", y, block.norm) if block.post_norms else y

    def feed(self, at: str, block: Block, x: str) -> str:
        if isinstance(block.mlp, Moe):
            y = self.moe(f"{at}.moe", block.mlp, x)
        else:
            y = self.mlp(f"{at}.mlp", block.mlp, x)
        return self.norm(f"{at}.mlp_post_norm", y, block.norm) if block.post_norms else y

    def mlp(self, at: str, mlp: Mlp, x: str) -> str:
        if mlp.gated:
            gate, up = self.linears([(f"{at}.gate", mlp.width), (f"{at}.up", mlp.width)], x, mlp.up_bias)
            y = self._op("gated", f"{at}.act", (gate, up), mlp.width, activation=mlp.activation)
        else:
            up = self.linear(f"{at}.up", x, mlp.width, mlp.up_bias)
            y = self._op("activation", f"{at}.act", (up,), mlp.width, activation=mlp.activation)
        return self.linear(f"{at}.down", y, self.arch.hidden_size, mlp.down_bias)

    def moe(self, at: str, moe: Moe, x: str) -> str:
        n, hidden = moe.experts, self.arch.hidden_size
        router = self.linear(f"{at}.router", x, n)
        experts = tuple(
            self._weight(f"{at}.{part}.weight", shape, "experts")
            for part, shape in (
                ("gate", (n, moe.width, hidden)), ("up", (n, moe.width, hidden)), ("down", (n, hidden, moe.width)),
            )
        )  # fmt: skip
        y = self._op(
            "moe", at, (x, router), hidden, experts,
            experts=n, top_k=moe.top_k, renormalise=moe.renormalise, activation=moe.activation, width=moe.width,
            adapted=False,
        )  # fmt: skip
        if moe.shared is None:
            return y
        shared = self.mlp(f"{at}.shared", moe.shared, x)
        if moe.shared_gate:
            gate = self.linear(f"{at}.shared_gate", x, 1)
            shared = self._op("gate", f"{at}.shared.gated", (shared, gate), hidden)
        return self.add(f"{at}.sum", y, shared)

    def final(self, x: str) -> str:
        if self.arch.final_norm is not None:
            x = self.norm("final_norm", x, self.arch.final_norm)
        width = self.arch.embedding.width
        return self.linear("head_proj", x, width) if width is not None and width != self.arch.hidden_size else x

    def head(self, hidden: str) -> str:
        head, vocab, width = self.arch.head, self.arch.vocab_size, self.values[hidden].width
        x = self._op("select", "last", (hidden,), width)
        weight = "embed.weight" if head.tied else self._weight("head.weight", (vocab, width), "matrix")
        bias = self._weight("head.bias", (vocab,), "vector") if head.bias else ""
        y = self._op("linear", "head", (x,), vocab, (weight, bias))
        y = self.scale("head.scaled", y, head.scale)
        if head.softcap:
            y = self._op("softcap", "head.capped", (y,), vocab, cap=head.softcap)
        return y

    # ---------------------------------------------------------------------------------------------------- single ops

    def norm(self, name: str, x: str, norm: Norm, group: int = 0, shared: bool = True) -> str:
        width = self.values[x].width
        shape = (group or width,) if shared else (width // group, group)
        weights = tuple(
            self._weight(f"{name}.{part}", shape, "vector") if wanted else ""
            for part, wanted in (("weight", True), ("bias", norm.bias))
        )
        attrs: dict[str, Scalar] = {"norm": norm.kind, "eps": norm.eps, "plus_one": norm.plus_one, "group": group}
        return self._op("norm", name, (x,), width, weights, **attrs)

    def linears(self, parts: list[tuple[str, int]], x: str, bias: bool = False) -> list[str]:
        """Linears of one input as one op, which reads it once."""
        weights: list[str] = []
        for name, n in parts:
            weights.append(self._weight(f"{name}.weight", (n, self.values[x].width), "matrix"))
            weights.append(self._weight(f"{name}.bias", (n,), "vector") if bias else "")
            self.values[name] = Value(name, n)
        names = [name for name, _ in parts]
        self.ops.append(Op("linear", (x,), tuple(names), tuple(weights)))
        return names

    def linear(self, name: str, x: str, n: int, bias: bool = False) -> str:
        return self.linears([(name, n)], x, bias)[0]

    def add(self, name: str, a: str, b: str) -> str:
        return self._op("add", name, (a, b), self.values[a].width)

    def scale(self, name: str, x: str, factor: float) -> str:
        return x if factor == 1.0 else self._op("scale", name, (x,), self.values[x].width, factor=factor)

    def angles(self, rope: Rope) -> str:
        """cos and sin of one kind of rotary embedding, computed once for all layers that share it."""
        kind = replace(rope, start=0, interleaved=False)
        if kind in self._angles:
            return self._angles[kind]
        name = f"angles{len(self._angles) or ''}"
        f, s = frequencies(rope), rope.scaling
        self.constants[f"{name}.inv_freq"] = f.inv_freq
        if f.inv_freq_long:
            self.constants[f"{name}.inv_freq_long"] = f.inv_freq_long
        self._angles[kind] = self._op(
            "angles", name, ("positions",), rope.dim,
            inv_freq=f"{name}.inv_freq", scale=f.scale, channel=rope.channel, dim=rope.dim, length=f.length,
            theta=rope.theta, factor=s.factor if s else 1.0, original=s.original_length if s else 0,
            inv_freq_long=f"{name}.inv_freq_long" if f.inv_freq_long else "", scale_long=f.scale_long,
        )  # fmt: skip
        return self._angles[kind]

    def _rotate(self, name: str, x: str, cs: str, a: Attention, rope: Rope) -> str:
        return self._op(
            "rope", name, (x, cs), self.values[x].width,
            head_dim=a.head_dim, dim=rope.dim, start=rope.start, interleaved=rope.interleaved,
        )  # fmt: skip

    def _alibi(self, a: Attention) -> str:
        if not a.alibi:
            return ""
        for name, values in self.constants.items():
            if name.startswith("alibi") and values == a.alibi:
                return name
        name = f"alibi{sum(n.startswith('alibi') for n in self.constants) or ''}"
        self.constants[name] = a.alibi
        return name

    def _weight(self, name: str, shape: tuple[int, ...], kind: str) -> str:
        self.weights[name] = WeightSpec(name, shape, kind)  # type: ignore[arg-type]
        return name

    def _op(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        width: int,
        weights: tuple[str, ...] = (),
        /,
        **attrs: Scalar,
    ) -> str:
        rows = "logits" if kind == "select" else self.values[inputs[0]].rows
        self.values[name] = Value(name, width, rows)
        self.ops.append(Op(kind, inputs, (name,), weights, attrs))
        return name
