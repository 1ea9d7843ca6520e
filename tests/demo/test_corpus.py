"""The corpus of the embedded model: what it says is true where that can be computed, and its parts fit together."""

from __future__ import annotations

import json
import random
import re

from tools.train_demo import dialogues, documents, items, places, questions, sums
from tools.train_demo.noise import noisy

from tests.helpers import REPOSITORY

ITEMS = documents.all_items()
QUESTIONS = REPOSITORY / "tests" / "demo" / "questions.jsonl"


def test_names_are_unique_and_groups_have_a_share() -> None:
    names = [item.name for item in ITEMS]
    assert len(names) == len(set(names))
    assert {item.group for item in ITEMS} <= set(documents.SHARE)


def test_every_answer_holds_what_is_expected_of_it() -> None:
    for item in ITEMS:
        assert item.make is not None or item.ask, item.name
        for answer in item.answers:
            assert all(part.lower() in answer.lower() for part in item.expect), item.name


def test_held_out_forms_are_not_trained() -> None:
    trained = {form for item in ITEMS for form in item.ask}
    assert not trained & {form for item in ITEMS for form in item.held_out}


def test_sums_are_right() -> None:
    values = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__, "÷": int.__floordiv__}
    seen = 0
    for item in ITEMS:
        found = re.fullmatch(r"sum:(\d+) (.) (\d+) = (-?\d+)", item.name)
        if found:
            a, op, b, value = found.groups()
            assert values[op](int(a), int(b)) == int(value)
            seen += 1
    assert seen > 1200


def test_numbers_in_chinese() -> None:
    assert [sums.zh_number(n) for n in (0, 7, 10, 11, 19, 20)] == ["零", "七", "十", "十一", "十九", "二十"]


def test_places_the_issue_names() -> None:
    facts = {item.name: item.answers[0] for item in [*places.countries(), *places.provinces()]}
    assert facts["capital:en:France"] == "The capital of France is Paris."
    assert "杭州" in facts["province:zh:浙江"]
    assert sum(name.startswith("capital:en") for name in facts) >= 100
    assert sum(name.startswith("province:zh") for name in facts) >= 27


def test_a_question_has_one_answer_only() -> None:
    answers: dict[str, set[str]] = {}
    for item in ITEMS:
        if item.make is None:
            for form in item.ask:
                answers.setdefault(form.lower(), set()).update(item.answers)
    twice = {form for form, found in answers.items() if len(found) > 1}
    assert not twice


def test_documents_are_well_formed() -> None:
    sampler = documents.Sampler(ITEMS, 1)
    for _ in range(500):
        parts = sampler.document()
        text = "".join(part.text for part in parts)
        assert text.endswith(("<|endoftext|>", "<|im_end|>\n"))
        assert text.count("<|im_start|>") == text.count("<|im_end|>")
        assert any(part.learn for part in parts)
        assert "{" not in text.replace("{story}", "")


def test_the_same_seed_draws_the_same_documents() -> None:
    a, b = (documents.Sampler(ITEMS, 5) for _ in range(2))
    assert [a.document() for _ in range(50)] == [b.document() for _ in range(50)]


def test_recall_answers_with_what_was_told() -> None:
    rng = random.Random(3)
    for _ in range(200):
        (told, _), (_, answer) = dialogues.recall(rng)
        last = answer.split()[-1].strip(".").lower()
        assert last in told.lower() or items.language(answer) == "zh"


def test_noise_keeps_the_language_and_never_empties() -> None:
    rng = random.Random(4)
    for text in ("What is the capital of France?", "浙江的省会在哪里?", "hi", "你好"):
        for _ in range(200):
            typed = noisy(rng, text)
            assert typed.strip()
            assert items.language(typed) == items.language(text)


def test_the_list_of_questions_is_the_generated_one() -> None:
    lines = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert [{k: v for k, v in line.items() if k != "id"} for line in lines] == questions.questions()
    assert len(lines) >= 150
    assert sum(line["held_out"] for line in lines) >= 150
    trained = {form.casefold() for item in ITEMS for form in item.ask}
    assert not trained & {line["turns"][0].casefold() for line in lines if line["held_out"]}


def test_a_wrong_answer_is_seen_as_wrong() -> None:
    question = {"expect": ["Paris"], "lang": "en", "group": "hand"}
    assert questions.right(question, "The capital of France is Paris.", ended=True)
    assert not questions.right(question, "The capital of France is Rome.", ended=True)
    assert not questions.right(question, "The capital of France is Paris.", ended=False)
    assert not questions.right(question, "法国的首都是巴黎 Paris。", ended=True)
    assert not questions.right(question, "", ended=True)
