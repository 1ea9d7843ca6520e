"""Figures of a report, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.chart import svg
from benchmarks.shapes import SHAPES, config_of, flops_per_token, read_share, tensors
from benchmarks.workloads import LINES, Requests, Sizes, load, measure, mixed

from benchmarks import report

WEIGHTS = 2_000_000


def result(runs: list[tuple[str, str, int, float]], **more: Any) -> dict[str, Any]:
    peaks = {"f32_gflops": 100.0, "bf16_gflops": 0.0, "int8_gops": 400.0}
    probes = [{"read_gbs": read, "read_plain_gbs": 8.0, **peaks} for read in (10.0, 20.0)]
    names = list(dict.fromkeys(run[0] for run in runs))
    bits = {name: 8 if name.endswith("8") else 4 for name in names}
    return {
        "schema": 1, "shape": "tiny", "date": "2026-01-01", "penstock": "1.2", "rounds": 2,
        "machine": {"cpu": "A <CPU>", "flags": ["avx2"], "cpus": 2, "threads": 2, "memory_gb": 8.0, "huge_pages": ""},
        "sizes": {"steps": 32, "prefill": 2048, "mixed": 32}, "skipped": ["vllm is not installed"], "probes": probes,
        "engines": {n: {"version": "1", "bits": bits[n], "peak": "int8_gops", "weight_bytes": WEIGHTS} for n in names},
        "runs": [{"engine": e, "line": name, "round": turn, "value": v, "others": 0.0, "probe": turn}
                 for e, name, turn, v in runs],
        **more,
    }  # fmt: skip


def test_shares_are_of_the_probe_beside_each_run() -> None:
    made = result([("penstock:int8", "decode-1", 0, 1000.0), ("penstock:int8", "decode-1", 1, 3000.0)])
    (row,) = report.rows(made)
    assert (row.value, row.low, row.high) == (2000, 1000, 3000)
    assert row.gbs == pytest.approx(2000 * WEIGHTS / 1e9)
    assert row.share == pytest.approx((0.2 + 0.3) / 2)  # 2 of 10 GB/s, 6 of 20 GB/s
    assert row.bound == "read"
    assert (row.same, row.best) == (None, None)


def test_prompts_are_bound_by_arithmetic() -> None:
    made = result([("penstock:int8", "prefill", 0, 1000.0)])
    (row,) = report.rows(made)
    flops = flops_per_token(config_of("tiny"), head=False)
    assert row.gflops == pytest.approx(1000 * flops / 1e9)
    assert row.bound == "int8"
    assert row.share == pytest.approx(1000 * flops / 400e9)


def test_a_peak_that_the_cpu_lacks_is_that_of_float32() -> None:
    made = result([("penstock:int8", "prefill", 0, 1000.0)])
    made["engines"]["penstock:int8"]["peak"] = "bf16_gflops"
    assert report.rows(made)[0].share == pytest.approx(1000 * flops_per_token(config_of("tiny"), head=False) / 100e9)


def test_ratios_are_round_by_round_with_the_best_peer() -> None:
    made = result([
        ("penstock:int8", "decode-4", 0, 100.0), ("penstock:int8", "decode-4", 1, 300.0),
        ("llamacpp:q8", "decode-4", 0, 50.0), ("llamacpp:q8", "decode-4", 1, 100.0),
        ("openvino:int8", "decode-4", 0, 20.0), ("llamacpp:q4", "decode-4", 0, 200.0),
    ])  # fmt: skip
    row = report.rows(made)[0]
    assert row.same == pytest.approx(2.5)  # 2 and 3 times llamacpp:q8
    assert row.best == pytest.approx(0.5)  # of the round that llamacpp:q4 has
    assert all(other.same is None and other.best is None for other in report.rows(made)[1:])


@pytest.mark.parametrize("line", ["ttft", "start", "memory"])
def test_less_time_is_a_ratio_above_one(line: str) -> None:
    made = result([("penstock:int8", line, 0, 1.0), ("llamacpp:q8", line, 0, 3.0), ("vllm:w8", line, 0, 9.0)])
    assert report.rows(made)[0].best == pytest.approx(3)


def test_text_and_picture_hold_every_row() -> None:
    made = result(
        [("penstock:int8", "ttft", 0, 0.5), ("llamacpp:q8", "ttft", 0, 1.0), ("penstock:int8", "mixed", 0, 9.0)]
    )
    made["runs"][1]["others"] = 0.5
    text, page, picture = report.table(made), report.markdown(made), svg(made)
    assert "others 50%" in text
    assert text.endswith("skipped: vllm is not installed")
    assert "| time to first token, 128 in, s | 0.500 | 1.00 |" in page
    assert "| mixed load, 32 requests, generated, tok/s | 9.00 | – |" in page
    assert "during runs of: llamacpp:q8" in page
    assert "A &lt;CPU&gt;" in picture
    assert picture.count("<rect") == 4


def test_nothing_measured_is_an_empty_table() -> None:
    assert report.rows(result([])) == []
    assert "tiny, penstock 1.2" in report.table(result([]))


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (56.78, "56.8"), (3.14159, "3.14"), (0.1234, "0.123")])
def test_figures(value: float, text: str) -> None:
    assert report.figure(value) == text


def test_decode_is_the_difference_of_two_runs() -> None:
    asked: list[Requests] = []

    def ask(requests: Requests) -> dict[str, Any]:
        asked.append(requests)
        tokens = sum(n for _, n in requests)
        return {"seconds": 5.0 + 0.5 * max(n for _, n in requests), "tokens": tokens}

    assert measure(LINES["decode-8"], ask, 0, Sizes()) == pytest.approx(8 / 0.5)
    assert [len(requests) for requests in asked] == [8, 8]
    assert not {tuple(ids) for ids, _ in asked[0]} & {tuple(ids) for ids, _ in asked[1]}


def test_a_difference_that_is_none_is_no_figure() -> None:
    assert measure(LINES["decode-1"], lambda r: {"seconds": 1.0, "tokens": sum(n for _, n in r)}, 0, Sizes()) is None


def test_an_engine_that_stops_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="3 tokens came where 1 were asked"):
        measure(LINES["ttft"], lambda requests: {"seconds": 1.0, "tokens": 3}, 0, Sizes())


def test_mixed_loads_differ_in_tokens_only() -> None:
    first, second = mixed(0, 32), mixed(1, 32)
    assert [(len(p), n) for p, n in first] == [(len(p), n) for p, n in second]
    assert first != second
    assert all(32 <= len(p) <= 256 and 64 <= n <= 192 for p, n in first)


def test_a_mixture_reads_a_part_of_its_experts() -> None:
    config = config_of("qwen3-30b-a3b-2l")
    assert 0 < read_share(config, 1) < read_share(config, 8) < read_share(config, 2048) <= 1
    assert read_share(config_of("llama-3.2-1b"), 8) == 1
    dense = {**config, "num_experts_per_tok": config["num_experts"]}
    assert flops_per_token(config, head=False) < 0.2 * flops_per_token(dense, head=False)


def test_the_head_of_a_tied_model_is_its_embedding() -> None:
    for shape in SHAPES:
        config = config_of(shape)
        width = config.get("hidden_size") or config["n_embd"]
        extra = flops_per_token(config, head=True) - flops_per_token(config, head=False)
        assert extra == 2 * config["vocab_size"] * width
        assert len({name for name, _ in tensors(config)}) == len(list(tensors(config)))


def test_prompts_fit_the_shape() -> None:
    sizes = Sizes().for_config(config_of("gpt2-124m"))
    assert sizes.prefill == 1000
    assert sizes.context <= 1024
    need = load(LINES["decode-4"], config_of("tiny"), 400, sizes)
    assert need is not None
    assert need.bytes == 100
