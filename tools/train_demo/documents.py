"""Draws training documents: chats of one or many turns, plain sentences, plain questions with their answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from . import dialogues, places, stories, sums, words
from .items import Item, language, read_facts
from .noise import noisy

# How often a group is met while all of its items are equally unknown.
SHARE = {
    "capital_en": 8.0, "capital_zh": 8.0, "province_zh": 6.0, "province_en": 2.5, "reverse_en": 2.5, "reverse_zh": 2.5,
    "region_en": 1.5, "region_zh": 1.5, "city_zh": 1.5, "city_en": 1.0, "sum+": 8.0, "sum-": 7.0, "sum×": 11.0, "sum÷": 2.5,
    "too_big": 1.0, "bigger": 0.8, "order": 1.0, "fact_en": 10.0, "fact_zh": 10.0, "chat": 11.0, "opposite": 3.0, "calendar": 3.0,
    "lexicon": 2.5, "copy": 0.3, "unknown": 2.5, "unknown_make": 2.5, "story": 3.0,
}  # fmt: skip
SYSTEMS = ("You are a helpful assistant.", "You are a helpful assistant", "You are Penstock, a tiny demo model.", "Answer briefly.",
           "你是一个乐于助人的助手。", "你是一个有用的助手。", "你是 penstock 的演示模型。", "请简短回答。", "You are a pirate chatbot.",
           "You are a friendly chatbot who always answers the question.", "Be concise and polite.", "请用一句话回答。")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A piece of a document: its text, whether it is learned, and the number of the item it asks (-1: none)."""

    text: str
    learn: bool
    item: int = -1
    user: bool = False


def all_items() -> list[Item]:
    """Everything that the model is taught, in a fixed order."""
    return [
        *places.countries(), *places.provinces(), *sums.arithmetic(), *words.opposites(), *words.calendar(), *words.lexicon(),
        *words.copying(), *read_facts("facts_en.txt", "fact_en", "en"), *read_facts("facts_zh.txt", "fact_zh", "zh"),
        *read_facts("chat.txt", "chat"), *dialogues.unknown(), *stories.stories(),
    ]  # fmt: skip


class Sampler:
    """Draws items in proportion to how badly they are still known (`heat`: running loss of the worst answer token)."""

    def __init__(self, items: Sequence[Item], seed: int) -> None:
        self.items = items
        self.rng = random.Random(seed)
        self.heat = [2.0] * len(items)
        sizes: dict[str, int] = {}
        for item in items:
            sizes[item.group] = sizes.get(item.group, 0) + 1
        self.base = [SHARE[item.group] / sizes[item.group] for item in items]
        self.capitals = [item for item in items if item.group in ("capital_en", "capital_zh", "province_zh")]
        self._pool: list[int] = []

    def learned(self, item: int, loss: float) -> None:
        """Records the loss of an item's answer."""
        if self.items[item].group in ("story", "unknown_make"):
            loss = min(loss, 0.6)
        self.heat[item] += 0.3 * (loss - self.heat[item])

    def item(self) -> int:
        """The number of the next item to ask."""
        if not self._pool:
            weights = [base * (0.12 + min(heat, 2.0)) for base, heat in zip(self.base, self.heat, strict=True)]
            self._pool = self.rng.choices(range(len(weights)), weights, k=512)
        return self._pool.pop()

    def turn(self) -> list[Part]:
        """One question and its answer as chat parts."""
        i = self.item()
        question, answer = self.items[i].draw(self.rng)
        return _turn(noisy(self.rng, question), answer, i)

    def talk(self, turns: int) -> list[Part]:
        """A chat of about so many turns, some of which depend on one another."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.14:
            story = [_turn(q if rng.random() < 0.85 else noisy(rng, q), a) for q, a in dialogues.recall(rng)]
            between = [self.turn() for _ in range(rng.choice((0, 0, 1, 2, max(0, turns - 2))))]
            parts = [*story[0], *(p for t in between for p in t), *story[1]]
            for _ in range(max(0, turns - 2 - len(between))):
                parts += self.turn()
        elif chance < 0.26:
            parts = [p for q, a in dialogues.follow(rng, self.capitals) for p in _turn(q, a)]
            for _ in range(turns - 3):
                parts += self.turn()
        elif chance < 0.29:
            parts = [p for q, a in dialogues.nobody(rng) for p in _turn(q, a)]
        else:
            parts = [p for _ in range(turns) for p in self.turn()]
        if rng.random() < 0.12:
            parts.insert(0, Part(f"<|im_start|>system\n{rng.choice(SYSTEMS)}<|im_end|>\n", False))
        return parts

    def document(self) -> list[Part]:
        """The next document."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.13:
            i = self.item()
            item = self.items[i]
            text = rng.choice(item.raws) if item.raws else item.draw(rng)[1]
            return [Part(text + "<|endoftext|>", True)]
        if chance < 0.22:
            i = self.item()
            question, answer = self.items[i].draw(rng)
            question = noisy(rng, question)
            if question[-1:] in "?？!！.。" and language(question) == "zh":
                return [Part(question, False), Part(answer + "<|endoftext|>", True)]
            gap = " " if question[-1:] in "?!." else "\n"
            if self.items[i].group.startswith("sum") and question.endswith(("=", "等于")):
                gap, answer = (" " if question.endswith(" =") else ""), answer.split("= ")[1]
            return [Part(question, False), Part(gap + answer + "<|endoftext|>", True)]
        return self.talk(1 if chance < 0.70 else rng.choice((2, 2, 3, 3, 4)))


def _turn(question: str, answer: str, item: int = -1) -> list[Part]:
    return [
        Part(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False, user=True),
        Part(f"{answer}<|im_end|>", True, item),
        Part("\n", False),
    ]
