"""Clients take turns, and a queue that is full says so."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.server.harness import Server, Wrapped, eventually, open_model


class Slow(Wrapped):
    """An executor whose steps take their time."""

    def run(self, batch: Any) -> Any:
        time.sleep(0.003)
        return self._executor.run(batch)


def test_a_key_with_a_long_queue_does_not_hold_up_another(checkpoint):
    model = open_model(checkpoint, max_num_seqs=1, max_logits_rows=1)
    model.model.engine.executor = Slow(model.model.executor)  # the queue is there before it is worked off
    done: list[str] = []

    def ask(server, key: str) -> None:
        body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True}
        assert server.post("/v1/completions", body, Authorization=f"Bearer {key}").status == 200
        done.append(key)

    with Server(model, api_keys=("greedy", "modest")) as server:
        many = [threading.Thread(target=ask, args=(server, "greedy")) for _ in range(12)]
        for thread in many:
            thread.start()
        assert eventually(lambda: server.stats.waiting >= 8)
        before = len(done)
        ask(server, "modest")
        assert done.index("modest") - before <= 3  # the one that runs, the turn that is being served, and the race
        for thread in many:
            thread.join()
        assert eventually(server.idle)
    model.close()


def test_a_queue_that_is_full_in_tokens_says_when_to_come_again(checkpoint):
    model = open_model(checkpoint, max_num_seqs=1, max_logits_rows=1, max_queued_tokens=600)
    model.model.engine.executor = Slow(model.model.executor)
    with Server(model) as server:
        answers = []

        def ask() -> None:
            answers.append(server.post("/v1/completions", {"prompt": "x" * 250, "max_tokens": 200, "ignore_eos": True}))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [a for a in answers if a.status != 200]
        assert refused and {a.status for a in refused} == {503} and len(refused) < 6
        assert all(a.headers["retry-after"] and "tokens wait" in a.error["message"] for a in refused)
        assert eventually(server.idle) and model.model.engine.scheduler.waiting_tokens == 0
    model.close()
