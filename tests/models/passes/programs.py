"""Random programs of ops that passes look at, and the small architectures."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from penstock.models.program import Op, Program, Value, WeightSpec, check

NORM = {"norm": "rms", "eps": 1e-5, "plus_one": False, "group": 0}
WIDTHS = (5, 16, 40)


@st.composite
def programs(draw: Any) -> Program:
    """A web of linears, norms, additions and products over values of a few widths, read any number of times."""
    values = {"ids": Value("ids", 1, dtype="i32"), "x0": Value("x0", 16)}
    weights = {"table": WeightSpec("table", (9, 16), "matrix")}
    ops = [Op("embed", ("ids",), ("x0",), ("table",), {"scale": 1.0})]

    def give(kind: str, inputs: tuple[str, ...], widths: list[int], names: tuple[str, ...], attrs: Any) -> None:
        outputs = tuple(f"v{len(values) + i}" for i in range(len(widths)))
        values.update({n: Value(n, w, values[inputs[0]].rows) for n, w in zip(outputs, widths, strict=True)})
        ops.append(Op(kind, inputs, outputs, names, attrs))

    for i in range(draw(st.integers(3, 14))):
        floats = [n for n, v in values.items() if v.dtype == "f32"]
        x = draw(st.sampled_from(floats[-4:] if draw(st.booleans()) else floats))
        width = values[x].width
        twins = [n for n in floats if values[n].width == width and values[n].rows == values[x].rows]
        kind = draw(st.sampled_from(["linear", "linear", "norm", "add", "gated", "scale", "activation"]))
        if kind == "linear":
            widths = draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3))
            names: list[str] = []
            for part, n in enumerate(widths):
                weights[f"w{i}.{part}"] = WeightSpec(f"w{i}.{part}", (n, width), "matrix")
                names += [f"w{i}.{part}", ""]
            give("linear", (x,), widths, tuple(names), {})
        elif kind == "norm":
            weights[f"n{i}"] = WeightSpec(f"n{i}", (width,), "vector")
            give("norm", (x,), [width], (f"n{i}", ""), NORM)
        elif kind in ("add", "gated"):
            attrs = {"activation": "silu"} if kind == "gated" else {}
            give(kind, (x, draw(st.sampled_from(twins))), [width], (), attrs)
        elif kind == "scale":
            give("scale", (x,), [width], (), {"factor": 0.5})
        else:
            give("activation", (x,), [width], (), {"activation": "relu"})
    hidden = draw(st.sampled_from([n for n, v in values.items() if v.dtype == "f32"]))
    give("select", (hidden,), [values[hidden].width], (), {})
    last = ops[-1].outputs[0]
    values[last] = Value(last, values[last].width, "logits")
    weights["head"] = WeightSpec("head", (9, values[last].width), "matrix")
    give("linear", (last,), [9], ("head", ""), {})
    program = Program("random", tuple(ops), values, weights, (), {"logits": ops[-1].outputs[0], "hidden": hidden})
    check(program)
    return program
