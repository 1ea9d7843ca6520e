"""A slice of real traffic (Azure's conversations of 2023), scaled down, with one client in ten leaving early."""

from __future__ import annotations

import csv
import random
import threading
import time
from datetime import datetime
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers import shared
from tests.server.harness import Raw, Server, eventually, open_model
from tests.server.test_metrics import samples

REQUESTS = 400
FASTER, SHORTER = 20.0, 8
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "kv_blocks_used", "seconds_since_step")


def trace(path: Path, count: int) -> list[tuple[float, int, int]]:
    """(seconds after the first, prompt tokens, answer tokens) of the first ``count`` requests, scaled."""
    with path.open(newline="") as file:
        rows = list(islice(csv.DictReader(file), count))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    return [
        (
            (when - times[0]) / FASTER,
            min(700, max(1, int(row["ContextTokens"]) // SHORTER)),
            min(200, max(1, int(row["GeneratedTokens"]) // SHORTER)),
        )
        for when, row in zip(times, rows, strict=True)
    ]


def play(server: Server, requests: list[tuple[float, int, int]]) -> tuple[list[int], int, int]:
    """Statuses, how many left, and how many tokens those got who stayed."""
    statuses: list[int] = []
    left, tokens, began = [0], [0], time.monotonic()
    lock = threading.Lock()

    def client(number: int, when: float, prompt: int, answer: int) -> None:
        dice = random.Random(number)
        time.sleep(max(0.0, began + when - time.monotonic()))
        text = "".join(dice.choices("abcdefgh ", k=prompt))
        body = {"prompt": text, "max_tokens": answer, "ignore_eos": True, "stream": number % 2 == 0, "seed": number}
        with Raw(server.port, 100) as raw:
            raw.ask("POST", "/v1/completions", body)
            if number % 10 == 0:  # now, or a little later: queued, in prefill, or while it answers
                if number % 20 == 0:
                    time.sleep(dice.random() * 0.3)
                with lock:
                    left[0] += 1
                return
            found = raw.answer()
        with lock:
            statuses.append(found.status)
            tokens[0] += answer

    threads = [threading.Thread(target=client, args=(i, *row)) for i, row in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, left[0], tokens[0]


def run(checkpoint: Path, count: int) -> None:
    requests = trace(shared("assets", "traces", "azure-llm-2023", "AzureLLMInferenceTrace_conv.csv"), count)
    model = open_model(checkpoint, max_num_seqs=16, kv_cache_memory=1 << 20)
    with Server(model) as server:
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        before = samples(server)
        statuses, left, tokens = play(server, requests)
        assert statuses == [200] * (count - left) and left == -(-count // 10)
        assert eventually(server.idle, 10)
        after = samples(server)
        for name in GAUGES:
            assert after[f"penstock_{name}"] == before[f"penstock_{name}"] == 0, name
        engine = server.llm.model.engine
        assert not engine.requests and not server.llm.frontend.num_live and not server.state.clients
        assert engine.scheduler.waiting_tokens == 0 and engine.pool.used == 0
        assert len(engine.scheduler._seats) == 16
        grown = after["penstock_generation_tokens_total"] - before["penstock_generation_tokens_total"]
        assert grown >= tokens
        ended = after["penstock_request_success_total|length"] - before["penstock_request_success_total|length"]
        gone = after["penstock_request_success_total|abort"] - before["penstock_request_success_total|abort"]
        assert ended + gone <= count and ended >= count - left
        assert eventually(lambda: not server.uvicorn.server_state.connections, 5)
    model.close()


def test_a_little_traffic_returns_every_gauge_to_its_baseline(checkpoint):
    run(checkpoint, 60)


@pytest.mark.slow
def test_a_slice_of_the_trace_returns_every_gauge_to_its_baseline(checkpoint):
    run(checkpoint, REQUESTS)
