"""Mixed traffic with leavers and mistakes leaves nothing behind."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.server.harness import Raw, Server, eventually, open_model


def request(dice: random.Random) -> tuple[str, dict]:
    n = dice.randint(1, 40)
    stream = dice.random() < 0.5
    text = "".join(dice.choices("abcdefgh ", k=dice.randint(1, 200)))
    messages = [{"role": "user", "content": text}]
    choices: list[tuple[str, dict]] = [
        ("/v1/completions", {"prompt": text, "max_tokens": n, "stream": stream, "n": dice.randint(1, 3)}),
        ("/v1/completions", {"prompt": [text, "b", "c"], "max_tokens": n, "stream": stream, "logprobs": 2}),
        ("/v1/chat/completions", {"messages": messages, "max_tokens": n, "stream": stream, "seed": n}),
        ("/v1/responses", {"input": text, "max_output_tokens": n, "stream": stream}),
        ("/v1/messages", {"messages": messages, "max_tokens": n, "stream": stream}),
        ("/generate_stream" if stream else "/generate", {"inputs": text, "parameters": {"max_new_tokens": n}}),
        ("/api/chat", {"messages": messages, "stream": stream, "options": {"num_predict": n}}),
        ("/completion", {"prompt": text, "n_predict": n, "stream": stream}),
    ]  # fmt: skip
    return dice.choice(choices)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def own_threads() -> int:
    """Threads but those of event loops' pools, which are bounded and come when there is work for them."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


def traffic(server: Server, count: int, seed: int) -> list[int]:
    """Statuses of ``count`` requests from eight clients; a tenth leave, a twentieth are wrong."""
    statuses: list[int] = []

    def client(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        for _ in range(count // 8):
            path, body = request(dice)
            fate = dice.random()
            if fate < 0.05:
                body = {**body, "surprise": 1} if dice.random() < 0.5 else {"nothing": "here"}
            with Raw(server.port) as raw:
                raw.ask("POST", path, body)
                if fate > 0.9:
                    if dice.random() < 0.5:
                        raw.socket.recv(64)
                    continue
                statuses.append(raw.answer().status)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def check(server: Server, count: int) -> None:
    traffic(server, 80, 0)
    assert eventually(server.idle)
    before = len(list(Path("/proc/self/fd").iterdir())), own_threads(), resident()
    statuses = traffic(server, count, 1)
    assert eventually(server.idle)
    assert set(statuses) <= {200, 400, 422} and statuses.count(200) > count * 0.7
    assert eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before[0] + 2)
    assert own_threads() <= before[1] + 1
    assert resident() - before[2] < 64 << 20
    assert server.stats.blocks_used == 0 and not server.llm.frontend.num_live and not server.llm.model.engine.requests


def test_nothing_is_left_of_mixed_traffic(checkpoint):
    model = open_model(checkpoint, max_num_seqs=8, kv_cache_memory=1 << 20)
    with Server(model) as server:
        check(server, 240)
    model.close()


@pytest.mark.slow
def test_nothing_is_left_of_much_mixed_traffic(checkpoint):
    model = open_model(checkpoint, max_num_seqs=8, kv_cache_memory=1 << 20)
    with Server(model) as server:
        check(server, 4000)
    model.close()
