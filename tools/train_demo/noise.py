"""The ways in which people type the same question."""

from __future__ import annotations

import random

from .items import language

EN_LEAD = ("Hi, ", "Hello, ", "Hello! ", "Please tell me: ", "Excuse me, ", "Hey, ", "So, ", "Quick question: ", "I have a question: ",
           "please ", "Hi! ", "OK, ", "Now: ", "hello ", "Good morning, ")  # fmt: skip
ZH_LEAD = ("你好, ", "你好，", "你好", "您好，", "请问", "请问，", "嗨，", "我想知道", "请告诉我", "问一下，", "你好, 请问", "你好！", "你好! ",
           "您好, ", "好的, ", "那么", "麻烦问一下，", "请问一下")  # fmt: skip


def _typo(rng: random.Random, text: str) -> str:
    spots = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i].isascii() and text[i + 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :] if kind == 1 else text[:i] + text[i] + text[i:]


def _english(rng: random.Random, text: str) -> str:
    for left, right, chance in (("What is", "What's", 0.2), ("What is", "what is", 0.1), ("What is", "Whats", 0.03),
                                ("colour", "color", 0.4), ("I am", "I'm", 0.1), ("How do I", "How can I", 0.2),
                                ("How do I", "How to", 0.15)):  # fmt: skip
        if rng.random() < chance:
            text = text.replace(left, right)
    if rng.random() < 0.15 and len(text) > 6:
        text = rng.choice(EN_LEAD) + (text if rng.random() < 0.5 else text[:1].lower() + text[1:])
    if text.endswith("?"):
        text = text[:-1] + rng.choice(("?",) * 12 + ("", "", "", "", " ?", "??", "？", "."))
    elif text[-1:].isalnum() and rng.random() < 0.3:
        text += rng.choice((".", "!", "?", ". "))
    elif text.endswith(".") and rng.random() < 0.3:
        text = text[:-1]
    if rng.random() < 0.25:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    return _typo(rng, text) if rng.random() < 0.06 and len(text) > 10 else text


def _chinese(rng: random.Random, text: str) -> str:
    if rng.random() < 0.12:
        asked = next((word for word in ("是什么", "是多少", "有多少", "怎么", "为什么") if word in text), "")
        text = text.replace(asked, rng.choice(("究竟", "到底")) + asked) if asked else text
    if rng.random() < 0.28 and len(text) > 3:
        text = rng.choice(ZH_LEAD) + text
    if text.endswith("?"):
        text = text[:-1] + rng.choice(
            ("?",) * 6 + ("？",) * 8 + ("", "", "", "", "呢?", "呢？", "呢", "呀？", "。", " ?", "??")
        )
    elif rng.random() < 0.35:
        text += rng.choice(("。", "吧", "吧。", "!", "！", "?", "？", "好吗？"))
    if rng.random() < 0.4:
        text = text.replace(", ", "，")
    if rng.random() < 0.1:
        text = text.replace("penstock", "Penstock")
    return text


def noisy(rng: random.Random, text: str) -> str:
    """The question as somebody might type it; one in five stays as written."""
    if rng.random() < 0.2 or not text:
        return text
    return _chinese(rng, text) if language(text) == "zh" else _english(rng, text)
