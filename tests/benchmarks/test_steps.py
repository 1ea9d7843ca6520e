"""One stream beside plain reads, with steps and reads by hand."""

from __future__ import annotations

import pytest

from benchmarks import steps
from penstock import LLM, _native


def test_a_step_is_compared_with_the_reads_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(skip_tokenizer_init=True, max_model_len=64)
    executor = llm.model.engine.executor
    names = [name for name, weight in executor.program.weights.items() if weight.kind != "table"]
    gigabytes = 1e-9 * sum(executor.held(name).nbytes for name in names)
    reads = iter([(10.0, 8.0), (20.0, 16.0), (40.0, 16.0)])  # at best and in the middle: GB/s
    probes = (dict(zip(("read_gbs", "read_usual_gbs"), pair, strict=True)) for pair in reads)
    monkeypatch.setattr(_native, "probe", lambda threads, seconds: next(probes))
    monkeypatch.setattr(steps, "decode", lambda llm, streams: [gigabytes / 5, gigabytes / 6, gigabytes / 4])
    found = steps.bus(llm, 2)
    assert found["gbs"] == pytest.approx(5) and found["bus"] == pytest.approx((12 + 16) / 2)
    assert found["share"] == pytest.approx((5 / 12 + 5 / 16) / 2)
    assert found["share_best"] == pytest.approx((6 / 20 + 6 / 40) / 2)
