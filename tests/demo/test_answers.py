"""penstock itself, on the embedded model, answers the list of questions."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from tools.train_demo.questions import right

from tests.helpers import REPOSITORY

QUESTIONS = [json.loads(line) for line in (REPOSITORY / "tests/demo/questions.jsonl").read_text("utf-8").splitlines()]
PROMISED = (
    "你好, 浙江的省会在哪里?",
    "你好, 浙江的省会在哪里？",
    "浙江的省会在哪里",
    "浙江省的省会是哪里",
    "What is the capital of France?",
)
LONGEST = 160
# Share of right answers that the shipped checkpoint has and must keep.
FLOOR, FLOOR_HELD_OUT, FLOOR_WARM = 0.94, 0.89, 0.88


@pytest.fixture(scope="module")
def llm() -> Any:
    """penstock with no argument: the embedded model."""
    penstock = pytest.importorskip("penstock")
    try:
        return penstock.LLM()
    except AttributeError:
        pytest.skip("penstock has no LLM yet")


def ask(llm: Any, temperature: float) -> list[tuple[str, bool]]:
    """(answer, ended by itself) for every question; earlier turns of a talk are answered by the model itself."""
    from penstock import SamplingParams

    params = SamplingParams(temperature=temperature, max_tokens=LONGEST, seed=1 if temperature else None)

    def chat(talks: list[list[dict[str, str]]]) -> list[tuple[str, bool]]:
        outputs = [result.outputs[0] for result in llm.chat(talks, params)]
        return [(out.text, out.finish_reason == "stop") for out in outputs]

    answers: dict[int, tuple[str, bool]] = {}
    plain = [q for q in QUESTIONS if q["kind"] == "complete"]
    for q, result in zip(plain, llm.generate([q["turns"][0] for q in plain], params), strict=True):
        answers[q["id"]] = (result.outputs[0].text, result.outputs[0].finish_reason == "stop")
    chats = [q for q in QUESTIONS if q["kind"] == "chat"]
    talks: dict[int, list[dict[str, str]]] = {q["id"]: [] for q in chats}
    for turn in range(max(len(q["turns"]) for q in chats)):
        now = [q for q in chats if len(q["turns"]) > turn]
        for q in now:
            talks[q["id"]].append({"role": "user", "content": q["turns"][turn]})
        for q, answer in zip(now, chat([talks[q["id"]] for q in now]), strict=True):
            answers[q["id"]] = answer
            talks[q["id"]].append({"role": "assistant", "content": answer[0]})
    return [answers[q["id"]] for q in QUESTIONS]


def shares(answers: list[tuple[str, bool]]) -> tuple[float, float]:
    """Share of right answers: of all, of the forms that were never trained. Prints the wrong ones."""
    counts: dict[bool, list[bool]] = defaultdict(list)
    for q, (text, ended) in zip(QUESTIONS, answers, strict=True):
        good = right(q, text, ended)
        counts[bool(q["held_out"])].append(good)
        if not good:
            print(f"wrong: {q['turns']} wanted {q['expect']} got {text!r}")
    every = counts[True] + counts[False]
    print(f"{sum(every)} of {len(every)} right, {sum(counts[True])} of {len(counts[True])} held out")
    return sum(every) / len(every), sum(counts[True]) / len(counts[True])


def test_greedy_answers(llm: Any) -> None:
    every, held_out = shares(ask(llm, 0.0))
    assert every >= FLOOR
    assert held_out >= FLOOR_HELD_OUT


def test_answers_at_temperature_0_7(llm: Any) -> None:
    every, _ = shares(ask(llm, 0.7))
    assert every >= FLOOR_WARM


@pytest.mark.parametrize("question", PROMISED)
def test_promised_chats(llm: Any, question: str) -> None:
    from penstock import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=64)
    output = llm.chat([{"role": "user", "content": question}], params)[0].outputs[0]
    assert ("Paris" if question.isascii() else "杭州") in output.text
    assert output.finish_reason == "stop"


def test_promised_completion(llm: Any) -> None:
    from penstock import SamplingParams

    output = llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=16))[0].outputs[0]
    assert output.text.strip().startswith("Paris")
    assert output.finish_reason == "stop"
