"""Bodies that the API's own description allows, and bodies that it forbids: an answer each time, and never a 5xx."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

EXAMPLES = 300
MODES = list(schemathesis.GenerationMode)


@pytest.fixture(scope="module")
def operations(server):
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json)
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_no_request_makes_a_server_error(server, operations, mode):
    statuses: list[int] = []
    each = -(-EXAMPLES // (len(operations) * len(MODES)))

    for operation in operations:

        @settings(
            max_examples=each, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            answer = case.call(base_url=server.url, timeout=60)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
            statuses.append(answer.status_code)

        with contextlib.suppress(Unsatisfiable):  # nothing about a plain GET can be wrong
            check()
    assert len(statuses) > 90 and server.idle()
    if mode is schemathesis.GenerationMode.POSITIVE:
        assert statuses.count(200) > 20
