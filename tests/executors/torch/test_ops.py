"""Each op of the plain executor against its formula written out in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from penstock.executors.torch.ops import RUN  # noqa: E402
from penstock.executors.torch.step import Cache, CacheRows, Sequence, Step  # noqa: E402
from penstock.models.program import OPS, KVSpec, Op  # noqa: E402

ROWS = 5
rng = np.random.default_rng(7)


def some(*shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def step(weights: dict[str, Any] | None = None, **changes: Any) -> Step:
    fields: dict[str, Any] = {
        "weights": {k: torch.from_numpy(v) for k, v in (weights or {}).items()}, "constants": {}, "caches": (),
        "sequences": (), "positions": torch.arange(ROWS)[None], "slots": torch.arange(ROWS),
        "prompt_lens": torch.full((ROWS,), ROWS), "logits_rows": torch.tensor([4, 1]),
    }  # fmt: skip
    return Step(**fields | changes)


def run(kind: str, *inputs: Any, weights: dict[str, Any] | None = None, s: Step | None = None, **attrs: Any) -> Any:
    """The op's outputs as arrays; the only one as it is."""
    op = Op(kind, (), (), tuple(weights or ()), attrs)
    made = RUN[kind](
        s or step({k: v for k, v in (weights or {}).items() if k}), op, [torch.as_tensor(x) for x in inputs]
    )
    arrays = [y.numpy() for y in made]
    return arrays[0] if len(arrays) == 1 else arrays


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


GELU = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))
ACTIVATIONS: dict[str, Any] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": GELU,
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def test_every_op_has_a_meaning() -> None:
    assert set(RUN) == set(OPS)


def test_embed() -> None:
    table = some(9, 6)
    close(run("embed", [3, 8, 3], weights={"w": table}, scale=2.5), table[[3, 8, 3]] * 2.5)


def test_embed_positions() -> None:
    table = some(12, 6)
    positions = np.array([[0, 1, 2], [5, 5, 6]])
    close(run("embed_positions", positions, weights={"w": table}, offset=2, channel=1), table[[7, 7, 8]])


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm(kind: str, group: int, plus_one: bool) -> None:
    x, w, b = some(ROWS, 8), some(group or 8), some(group or 8)
    weights = {"w": w, "b": b} if kind == "layer" else {"w": w, "": b}
    groups = x.reshape(ROWS, -1, group or 8).astype(np.float64)
    if kind == "layer":
        groups = groups - groups.mean(-1, keepdims=True)
    y = groups / np.sqrt((groups**2).mean(-1, keepdims=True) + 1e-3) * (w + plus_one) + (b if kind == "layer" else 0)
    found = run("norm", x, weights=weights, norm=kind, eps=1e-3, plus_one=plus_one, group=group)
    close(found, y.reshape(ROWS, 8))


def test_norm_with_a_weight_for_every_group() -> None:
    x, w = some(ROWS, 8), some(8)
    groups = x.reshape(ROWS, 2, 4)
    y = groups / np.sqrt((groups**2).mean(-1, keepdims=True) + 1e-6) * w.reshape(2, 4)
    close(run("norm", x, weights={"w": w, "": w}, norm="rms", eps=1e-6, plus_one=False, group=4), y.reshape(ROWS, 8))


def test_linear_of_several_outputs() -> None:
    x, w0, b0, w1 = some(ROWS, 6), some(4, 6), some(4), some(3, 6)
    made = RUN["linear"](
        step({"w0": w0, "b0": b0, "w1": w1}), Op("linear", (), (), ("w0", "b0", "w1", "")), [torch.from_numpy(x)]
    )
    close(made[0], x @ w0.T + b0)
    close(made[1], x @ w1.T)


def angles(s: Step, positions: Any, **changes: Any) -> Any:
    attrs: dict[str, Any] = {
        "inv_freq": "f", "scale": 1.0, "channel": 0, "dim": 4, "length": "none", "theta": 100.0, "factor": 1.0,
        "original": 0, "inv_freq_long": "", "scale_long": 1.0,
    }  # fmt: skip
    return run("angles", np.array(positions), s=s, **(attrs | changes))


def cs(position: float, inv_freq: Any, scale: float = 1.0) -> Any:
    angle = np.float32(position) * np.asarray(inv_freq, np.float32)
    return np.concatenate([np.cos(angle), np.sin(angle)]) * scale


PLAIN = [1.0, 0.1]  # theta 100, dim 4


def test_angles() -> None:
    s = step(constants={"f": torch.tensor(PLAIN)}, prompt_lens=torch.tensor([3, 3, 3]))
    found = angles(s, [[9, 9, 9], [0, 1, 70000]], channel=1, scale=1.5)
    close(found, [cs(p, PLAIN, 1.5) for p in (0, 1, 70000)])


def test_angles_of_longrope_depend_on_each_tokens_length() -> None:
    s = step(
        constants={"f": torch.tensor(PLAIN), "l": torch.tensor([0.5, 0.01])}, prompt_lens=torch.tensor([3, 3, 3, 9])
    )
    found = angles(s, [[2, 3, 4, 0]], length="longrope", inv_freq_long="l", original=4, scale=1.2, scale_long=1.4)
    long = [0.5, 0.01]
    close(found, [cs(2, PLAIN, 1.2), cs(3, PLAIN, 1.2), cs(4, long, 1.4), cs(0, long, 1.4)])


@pytest.mark.parametrize(("rule", "stretch"), [("dynamic", lambda n: 3 * n / 4 - 2), ("qwen_ntk", None)])
def test_angles_of_stretched_bases(rule: str, stretch: Any) -> None:
    prompts = [3, 4, 8, 9, 9]  # qwen_ntk changes after 4 and after 8
    positions = [2, 3, 6, 0, 11]
    s = step(constants={"f": torch.tensor(PLAIN)}, prompt_lens=torch.tensor(prompts))
    found = angles(s, [positions], length=rule, original=4, factor=3.0)
    expected = []
    for prompt, position in zip(prompts, positions):
        n = prompt if rule == "qwen_ntk" else max(prompt, position + 1)
        factor = stretch(n) if stretch else 2 ** math.ceil(math.log2(n / 4) + 1) - 1
        theta = 100.0 * factor**2 if n > 4 else 100.0  # dim / (dim - 2) = 2
        expected.append(cs(position, [1.0, theta**-0.5]))
    close(found, expected)
    assert len({tuple(row) for row in found}) == 5


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_turns_pairs_of_each_head(interleaved: bool) -> None:
    x, table = some(2, 12), np.stack([cs(3, PLAIN), cs(5, PLAIN)])
    found = run("rope", x, table, head_dim=6, dim=4, start=1, interleaved=interleaved)
    expected = x.copy()
    for row in range(2):
        for head in range(2):
            for pair in range(2):
                a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 2)
                a, b = 6 * head + 1 + a, 6 * head + 1 + b
                c, s = table[row, pair], table[row, pair + 2]
                expected[row, a], expected[row, b] = x[row, a] * c - x[row, b] * s, x[row, b] * c + x[row, a] * s
    close(found, expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x, up = some(ROWS, 8) * 3, some(ROWS, 8)
    close(run("activation", x, activation=name), ACTIVATIONS[name](x))
    close(run("gated", x, up, activation=name), ACTIVATIONS[name](x) * up)


def test_small_ops() -> None:
    a, b, g = some(ROWS, 8), some(ROWS, 8), some(ROWS, 1)
    close(run("add", a, b), a + b)
    close(run("scale", a, factor=0.3), a * 0.3)
    close(run("gate", a, g), a * sigmoid(g))
    close(run("softcap", a, cap=0.5), 0.5 * np.tanh(a / 0.5))
    close(run("select", a), a[[4, 1]])


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
def test_moe(renormalise: bool, adapted: bool) -> None:
    """Of two adapters in three slots, one changes gate and down of two experts, the other up of all."""
    x, router = some(ROWS, 6), some(ROWS, 4)
    router[0] = 1.0  # a tie: the lowest experts win
    weights = {"g": some(4, 7, 6), "u": some(4, 7, 6), "d": some(4, 6, 7)}
    slots = [2, 0, 5, 5, 2] if adapted else [0] * ROWS
    adapters: dict[int, dict[str, Any]] = {
        2: {f"{name}[{e}]": (some(3, 6 if name == "g" else 7), some(7 if name == "g" else 6, 3), 0.5)
            for name in "gd" for e in (0, 2)},
        5: {f"u[{e}]": (some(1, 6), some(7, 1), 2.0) for e in range(4)},
    }  # fmt: skip
    tensors = {
        slot: {name: (torch.from_numpy(a), torch.from_numpy(b), scale) for name, (a, b, scale) in each.items()}
        for slot, each in adapters.items()
    }
    found = run(
        "moe", x, router, weights=weights, s=step(weights, adapters=tensors, adapter_of=torch.tensor(slots)),
        experts=4, top_k=2, renormalise=renormalise, activation="silu", width=7, adapted=adapted,
    )  # fmt: skip

    def matrix(row: int, name: str, e: int) -> Any:
        a, b, scale = adapters.get(slots[row], {}).get(f"{name}[{e}]", (0, 0, 0))
        return weights[name][e] + (scale * (b @ a) if scale else 0)

    expected = np.zeros_like(x)
    for row in range(ROWS):
        p = np.exp(router[row]) / np.exp(router[row]).sum()
        best = sorted(range(4), key=lambda e: (-p[e], e))[:2]
        for e in best:
            inner = ACTIVATIONS["silu"](matrix(row, "g", e) @ x[row]) * (matrix(row, "u", e) @ x[row])
            expected[row] += p[e] / (p[best].sum() if renormalise else 1) * (matrix(row, "d", e) @ inner)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


HEADS, KV, DIM, BLOCK = 4, 2, 3, 4
PLAIN_ATTENTION: dict[str, Any] = {
    "layer": 0, "heads": HEADS, "kv_heads": KV, "head_dim": DIM, "scale": 0.7, "window": 0, "softcap": 0.0, "alibi": "",
    "log_n": 0, "bidirectional": False,
}  # fmt: skip
SLOPES = [0.5, 0.25, 0.125, 0.0625]
CASES: dict[str, dict[str, Any]] = {
    "causal": {}, "window": {"window": 3}, "softcap": {"softcap": 0.8}, "alibi": {"alibi": "slopes"},
    "log_n": {"log_n": 5}, "bidirectional": {"bidirectional": True},
    "all": {"window": 4, "softcap": 0.8, "alibi": "slopes", "log_n": 5, "bidirectional": True},
}  # fmt: skip


def fill(cache: Cache, slots: int, value: float) -> None:
    for rows in (cache.keys, cache.values):
        rows.write(torch.arange(slots), torch.full(rows.read(torch.arange(slots)).shape, value))


@pytest.mark.parametrize("case", CASES)
def test_attention(case: str) -> None:
    """Two sequences over scattered blocks: 6 of 10 rows new, and 3 of 3."""
    attrs = {**PLAIN_ATTENTION, **CASES[case]}
    slots = [torch.tensor([9, 8, 11, 10, 3, 2, 1, 0, 15, 14]), torch.tensor([20, 21, 22])]
    boundaries, positions = (7, 2), np.array([4, 5, 6, 7, 8, 9, 0, 1, 2])
    cache = Cache(KVSpec(KV, DIM), 24, "f32")
    fill(cache, 24, math.nan)
    held = [(some(len(s), KV, DIM), some(len(s), KV, DIM)) for s in slots]
    for s, (k, v) in zip(slots, held):
        cache.keys.write(s, torch.from_numpy(k))
        cache.values.write(s, torch.from_numpy(v))
    sequences = (Sequence(0, 6, slots[0], boundaries[0]), Sequence(6, 9, slots[1], boundaries[1]))
    q = some(9, HEADS * DIM)
    state = step(
        caches=(cache,), sequences=sequences, positions=torch.from_numpy(positions)[None],
        constants={"slopes": torch.tensor(SLOPES)},
    )  # fmt: skip
    found = run("attention", q, s=state, **attrs)
    row = 0
    for (keys, values), new, boundary in zip(held, (6, 3), boundaries):
        for i in range(len(keys) - new, len(keys)):
            for h in range(HEADS):
                query = q[row].reshape(HEADS, DIM)[h].astype(np.float64)
                if attrs["log_n"] and positions[row] >= attrs["log_n"]:
                    query = query * math.log(positions[row] + 1) / math.log(attrs["log_n"])
                score = {}
                for j in range(len(keys)):
                    seen = j <= i or (attrs["bidirectional"] and i < boundary and j < boundary)
                    if not seen or (attrs["window"] and j <= i - attrs["window"]):
                        continue
                    s = float(query @ keys[j, h // 2]) * attrs["scale"]
                    if attrs["softcap"]:
                        s = attrs["softcap"] * math.tanh(s / attrs["softcap"])
                    score[j] = s + (SLOPES[h] * (j - i) if attrs["alibi"] else 0)
                mass = {j: math.exp(s) for j, s in score.items()}
                expected = sum(m * values[j, h // 2] for j, m in mass.items()) / sum(mass.values())
                close(found[row].reshape(HEADS, DIM)[h], expected)
            row += 1


def test_store_writes_rows_at_their_slots() -> None:
    cache = Cache(KVSpec(KV, DIM), 8, "bf16")
    fill(cache, 8, 0)
    k, v = some(2, KV * DIM), some(2, KV * DIM)
    state = step(caches=(cache,), slots=torch.tensor([6, 1]))
    assert run("store", k, v, s=state, layer=0) == []
    close(cache.keys.read(torch.tensor([6, 1])).reshape(2, -1), torch.from_numpy(k).bfloat16().float())
    close(cache.values.read(torch.tensor([6, 1])).reshape(2, -1), torch.from_numpy(v).bfloat16().float())
    assert not cache.keys.read(torch.tensor([0, 2, 3, 4, 5, 7])).any()


def test_rows_of_bytes() -> None:
    """A head of a slot has its own scale; what is largest stays as it is, the rest is off by half a step at most."""
    rows = CacheRows(KVSpec(2, 6), 4, "i8")
    x = torch.from_numpy(some(3, 2, 6)) * torch.tensor([1e-3, 100.0])[None, :, None]
    x[1, 1] = 0
    slots = torch.tensor([3, 0, 2])
    rows.write(slots, x)
    read, step = rows.read(slots), x.abs().amax(dim=-1, keepdim=True) / 127
    assert bool(((read - x).abs() <= step * 0.5001).all())
    largest = x.abs().argmax(dim=-1, keepdim=True)
    torch.testing.assert_close(read.gather(-1, largest), x.gather(-1, largest))
    rows.copy(slice(2, 4), slice(0, 2))
    torch.testing.assert_close(rows.read(torch.tensor([1, 0])), rows.read(torch.tensor([3, 2])))
    assert rows.nbytes == 4 * 2 * (6 + 4)


NORM = {"norm": "rms", "eps": 1e-5, "plus_one": True}


@pytest.mark.parametrize("kind", ["none", "rms", "layer"])
def test_fused_linear_is_its_parts(kind: str) -> None:
    w = {"w0": some(4, 8), "b0": some(4), "w1": some(4, 8), "n": some(8), "b": some(8)}
    s = step(w)
    x, residual = torch.from_numpy(some(ROWS, 8)), torch.from_numpy(some(ROWS, 4))
    norm = {**NORM, "norm": kind}
    pair = {"none": (), "rms": ("n", ""), "layer": ("n", "b")}[kind]
    n = x if kind == "none" else RUN["norm"](s, Op("norm", (), (), pair, {**norm, "group": 0}), [x])[0]
    linear = ("w0", "b0", "w1", "")
    y0, y1 = RUN["linear"](s, Op("linear", (), (), linear), [n])

    def fused(weights: tuple[str, ...], inputs: list[Any], **attrs: Any) -> Any:
        both = {**norm, "parts": len(weights) // 2, "residual": False, "activation": "", **attrs}
        return RUN["fused_linear"](s, Op("fused_linear", (), (), (*weights, *pair), both), inputs)

    close(fused(linear, [x])[1], y1)
    close(fused(linear, [x], activation="gelu")[0], torch.nn.functional.gelu(y0) * y1)
    close(fused(linear[:2], [x, residual], residual=True)[0], residual + y0)


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("kind", ["none", "rms"])
def test_qk_rope_store_is_its_parts(kind: str, dim: int) -> None:
    q, k, v = some(ROWS, 8), some(ROWS, 4), some(ROWS, 4)
    table = some(ROWS, 2)
    weights = {"q": some(4), "k": some(4)}
    caches = [Cache(KVSpec(1, 4), 8, "f32") for _ in range(2)]
    for cache in caches:
        fill(cache, 8, 0)
    attrs = {
        "layer": 0, "heads": 2, "kv_heads": 1, "head_dim": 4, "dim": dim, "start": 1, "interleaved": True, **NORM,
        "norm": kind,
    }  # fmt: skip
    names = ("q", "k") if kind == "rms" else ()
    inputs = [torch.from_numpy(x) for x in ((q, k, v, table) if dim else (q, k, v))]
    s = step(weights, caches=(caches[0],))
    found = RUN["qk_rope_store"](s, Op("qk_rope_store", (), (), names, attrs), inputs)[0]
    s = step(weights, caches=(caches[1],))
    if kind == "rms":
        q, k = (
            RUN["norm"](s, Op("norm", (), (), (name, ""), {**NORM, "group": 4}), [torch.from_numpy(x)])[0].numpy()
            for name, x in (("q", q), ("k", k))
        )
    if dim:
        turn: dict[str, Any] = {"head_dim": 4, "dim": 2, "start": 1, "interleaved": True}
        q, k = (run("rope", x, table, s=s, **turn) for x in (q, k))
    run("store", k, v, s=s, layer=0)
    close(found, q)
    every = torch.arange(8)
    close(caches[0].keys.read(every), caches[1].keys.read(every))
    close(caches[0].values.read(every), caches[1].values.read(every))
