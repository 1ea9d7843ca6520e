"""Each sampling parameter with each feature and with each other one: a right answer, or a refusal that names a field.

Requests are chosen so that all pairs come up in few of them (a covering array). A pair that only came up in requests
that were refused is asked for once more by itself.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tests.server.harness import NAME, Answer, Raw, Server, eventually, make_lora, open_model, parse_answer

pytest.importorskip("llguidance", reason="llguidance is not installed")
PROMPT = "once upon a time"
LETTERS = [*range(97, 123), 257]
REGEX = "[a-f]{3}[0-9]{2,9}"
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"], "additionalProperties": False}
PARAMS: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.7, 3.0), "top_p": (0.5,), "top_k": (1, 5), "min_p": (0.2,), "typical_p": (0.4,),
    "repetition_penalty": (1.3,), "presence_penalty": (1.5,), "frequency_penalty": (-1.0,),
    "logit_bias": ({"101": -100, "120": 3},), "min_tokens": (5,), "bad_words": (["a", "12"],),
    "allowed_token_ids": (LETTERS,), "stop": (["e", "th"],), "stop_token_ids": ([105, 106, 9999],),
    "ignore_eos": (True,), "logprobs": (0, 3), "prompt_logprobs": (2,), "n": (2,), "best_of": (3,),
    "repetition_detection": ({"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 3},),
    "include_stop_str_in_output": (True,), "skip_special_tokens": (False,), "truncate_prompt_tokens": (4,),
    "max_tokens": (1,), "watermark": (True,), "echo": (True,),
}  # fmt: skip
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {}, "stream": {"stream": True}, "many": {"n": 3}, "scores": {"logprobs": 5},
    "regex": {"structured_outputs": {"regex": REGEX}, "max_tokens": 30},
    "json": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "beams": {"use_beam_search": True, "n": 2}, "stop strings": {"stop": ["o", "xyz"]}, "lora": {"model": "lora"},
    "prefix": {"model": "prefix"}, "chunks": {}, "hit": {}, "leave": {"stream": True, "max_tokens": 400}, "chat": {},
}  # fmt: skip
SAME = ("stream", "chunks", "hit")
"""Features that change no answer."""
Item = tuple[str, str]
"""A feature, or a parameter with one of its values."""
ITEMS: list[Item] = [(name, json.dumps(value)) for name, values in PARAMS.items() for value in values]


@dataclass
class Pair:
    """Two servers with the same model and adapters, the second with small chunks and no prefix cache."""

    wide: Server
    narrow: Server
    plain: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def servers(checkpoint, tmp_path_factory):
    lora, prefix = make_lora(tmp_path_factory.mktemp("lora")), tmp_path_factory.mktemp("prefix")
    random = np.random.default_rng(3)
    np.save(prefix / "pre_caches.npy", random.standard_normal((2, 2, 1, 2, 5, 8)).astype(np.float32))
    options = {"adapters": {"lora": str(lora), "prefix": str(prefix)}, "max_num_seqs": 64, "max_num_batched_tokens": 96}
    wide = open_model(checkpoint, **options)
    narrow = open_model(checkpoint, **options, prefill_chunk=3, enable_prefix_caching=False)
    with Server(wide) as one, Server(narrow) as two:
        yield Pair(one, two)
    wide.close()
    narrow.close()


def covering(seed: int = 0, width: int = 5) -> list[tuple[str, tuple[Item, ...]]]:
    """``(feature, parameters)`` of few requests in which each pair comes up: greedy, the best of some random ones."""
    random = np.random.default_rng(seed)
    features = list(FEATURES)
    missing = {frozenset(p) for p in combinations(ITEMS, 2) if p[0][0] != p[1][0]}
    missing |= {frozenset((("feature", f), item)) for f in features for item in ITEMS}
    rows = []
    while missing:
        best: tuple[int, str, tuple[Item, ...]] = (-1, "", ())
        for _ in range(12):
            feature = features[random.integers(len(features))]
            start = sorted(next(iter(sorted(missing, key=sorted))))
            items = [i for i in start if i[0] != "feature"]
            feature = next((i[1] for i in start if i[0] == "feature"), feature)
            for at in random.permutation(len(ITEMS)).tolist():
                if len(items) < width and ITEMS[at][0] not in {name for name, _ in items}:
                    items.append(ITEMS[at])
            gain = len(missing & pairs_of(feature, tuple(items)))
            best = max(best, (gain, feature, tuple(items)))
        rows.append(best[1:])
        missing -= pairs_of(*best[1:])
    return rows


def pairs_of(feature: str, items: tuple[Item, ...]) -> set[frozenset[Item]]:
    return {frozenset(p) for p in combinations([("feature", feature), *items], 2)}


def body_of(feature: str, items: tuple[Item, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": NAME, "prompt": PROMPT, "seed": 11, "max_tokens": 14, "return_token_ids": True}
    body |= {name: json.loads(value) for name, value in items}
    body |= FEATURES[feature]
    if feature == "chat":
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        if "logprobs" in body:
            body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return body


def ask(servers: Pair, feature: str, items: tuple[Item, ...]) -> Any:
    """The error, or the answers as ``[(text, tokens, finish_reason, logprobs)]``; None if we went away."""
    body = body_of(feature, items)
    server = servers.narrow if feature == "chunks" else servers.wide
    path = "/v1/chat/completions" if feature == "chat" else "/v1/completions"
    if feature == "leave":
        with Raw(server.port) as raw:
            raw.ask("POST", path, body)
            head = raw.read_until(b"\r\n\r\n")
            if b" 200 " in head:
                return None
            return parse_answer(head + raw.rest()).error
    answer = server.post(path, body)
    if answer.status != 200:
        assert answer.status in (400, 422), (body, answer.body)
        return answer.error
    return streamed(answer) if body.get("stream") else [read(choice) for choice in answer.json["choices"]]


def read(choice: dict[str, Any]) -> tuple[Any, ...]:
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return text, tuple(choice["token_ids"]), choice["finish_reason"], choice["logprobs"]


def streamed(answer: Answer) -> list[tuple[Any, ...]]:
    assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:]
    found: dict[int, tuple[Any, ...]] = {}
    for event in answer.events:
        for choice in event["choices"]:
            text, tokens, reason, scores = read(choice)
            old = found.get(choice["index"], ("", (), None, None))
            assert old[2] is None, "news after the end"
            if old[3]:
                scores = {name: [*old[3][name], *scores[name]] for name in scores}
            found[choice["index"]] = (old[0] + text, old[1] + tokens, reason, scores)
    return [found[i] for i in sorted(found)]


def check(feature: str, items: tuple[Item, ...], answers: list[tuple[Any, ...]]) -> None:
    """What the parameters promise, each by itself."""
    body = body_of(feature, items)
    assert len(answers) == body.get("n", 1)
    for text, tokens, reason, scores in answers:
        echoed = text if not body.get("echo") or feature == "chat" else text.removeprefix(PROMPT)
        made = len(tokens)
        constrained = feature in ("regex", "json")
        assert reason in ("stop", "length", "repetition")
        assert made <= body["max_tokens"]
        assert reason != "length" or made == body["max_tokens"]
        if "min_tokens" in body and not constrained:
            assert made >= body["min_tokens"] or reason == "repetition" or "stop" in body
        if "allowed_token_ids" in body:
            assert set(tokens) <= {*LETTERS}
        if "logit_bias" in body and not constrained:
            assert 101 not in tokens
        assert not set(tokens[:-1]) & {*body.get("stop_token_ids", ())}
        if body.get("ignore_eos") and not constrained:
            assert reason != "stop" or {"stop", "stop_token_ids"} & body.keys()
        for stop in body.get("stop", ()):
            at = echoed.find(stop)
            if at >= 0 and "truncate_prompt_tokens" not in body:
                assert body.get("include_stop_str_in_output")
                assert at + len(stop) == len(echoed)
        if "bad_words" in body:
            assert 97 not in tokens
        if feature == "regex" and reason == "stop" and "stop" not in body and "stop_token_ids" not in body:
            assert re.fullmatch(REGEX, echoed.removesuffix("</s>")), echoed
        if "logprobs" in body and feature != "chat":
            echo = len(scores["tokens"]) - made if body.get("echo") else 0
            assert len(scores["tokens"]) == made + echo
            assert all(value <= 0 for value in scores["token_logprobs"][echo:])


def named(error: dict[str, Any], feature: str, items: tuple[Item, ...]) -> bool:
    """Whether a refusal names a field that was sent."""
    assert error["message"], error
    said = f"{error['param']} {error['message']}"
    return any(re.search(rf"\b{name}\b", said) for name in body_of(feature, items)) or "allowed" in said


def test_each_pair_is_answered_or_refused_by_name(servers):
    greedy = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "logprobs": 5, "ignore_eos": True}
    before = [s.post("/v1/completions", greedy).json["choices"] for s in (servers.wide, servers.narrow)]
    assert before[0] == before[1]
    rows = covering()
    alone: dict[tuple[str, tuple[Item, ...]], Any] = {}
    answered: set[frozenset[Item]] = set()

    def run(feature: str, items: tuple[Item, ...]) -> None:
        found = alone[feature, items] = ask(servers, feature, items)
        if isinstance(found, dict):
            assert named(found, feature, items), (found, body_of(feature, items))
            return
        answered.update(pairs_of(feature, items))
        if found is not None:
            check(feature, items, found)
        if feature in SAME:
            assert found == ask(servers, "plain", items), body_of(feature, items)
        if feature == "many" and not {"n", "best_of"} & dict(items).keys():
            assert found[:1] == ask(servers, "plain", items), body_of(feature, items)

    for row in rows:
        run(*row)
    for pair in sorted(set().union(*(pairs_of(*row) for row in rows)) - answered, key=sorted):
        feature = next((value for name, value in pair if name == "feature"), "plain")
        run(feature, tuple(sorted(i for i in pair if i[0] != "feature")))

    # The same answers in each other's company, and nothing left behind.
    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda row: ask(servers, *row), alone))
    for row, found in zip(alone, together, strict=True):
        assert found == alone[row], body_of(*row)
    for server, expected in zip((servers.wide, servers.narrow), before, strict=True):
        assert eventually(partial(idle, server)), server.stats
        assert server.post("/v1/completions", greedy).json["choices"] == expected


def idle(server: Server) -> bool:
    """Nothing runs, waits or holds blocks, but for the prefix adapter's own."""
    stats, pinned = server.stats, sum(len(p.blocks) for p in server.llm.model.engine.prefixes.values())
    return stats.running == stats.waiting == 0 and stats.blocks_used == pinned and not server.state.tasks
