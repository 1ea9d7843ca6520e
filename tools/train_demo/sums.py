"""Small arithmetic, number order and comparison."""

from __future__ import annotations

import random

from .items import Item

EN_NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
              "seventeen eighteen nineteen twenty").split()  # fmt: skip
ZH_DIGITS = "零一二三四五六七八九"
SIGNS = {"+": ("+", "+", "+"), "-": ("-", "-", "−"), "×": ("*", "×", "x"), "÷": ("/", "÷", "/")}
EN_WORDS = {
    "+": ("plus", "plus", "and"),
    "-": ("minus",),
    "×": ("times", "times", "multiplied by"),
    "÷": ("divided by",),
}
ZH_WORDS = {"+": ("加", "加", "加上"), "-": ("减", "减去"), "×": ("乘", "乘以"), "÷": ("除以",)}
EN_FORMS = ("What is {e}?", "What is {e}?", "{e}", "{e} = ?", "{e} =", "{e}?", "How much is {e}?", "Calculate {e}", "Compute {e}",
            "Tell me {e}", "What does {e} equal?", "Can you calculate {e}?", "{e} equals what?", "What is the result of {e}?")  # fmt: skip
ZH_FORMS = ("{e}等于几?", "{e}等于多少?", "{e}是多少?", "{e}=?", "{e}=", "{e}", "计算{e}", "算一下{e}", "{e}得多少?", "{e}等于",
            "{e}等于什么?", "请计算{e}", "{e}结果是多少?", "{e}是几?")  # fmt: skip
TOO_BIG = {
    "en": "That is too big for me: I only know sums with numbers up to 20.",
    "zh": "这个数太大了, 我只会20以内的小算术。",
}


def zh_number(n: int) -> str:
    """0 to 20 in Chinese."""
    if n < 10:
        return ZH_DIGITS[n]
    if n < 20:
        return "十" + (ZH_DIGITS[n - 10] if n > 10 else "")
    return "二十"


def expression(rng: random.Random, a: int, op: str, b: int, lang: str, *, words: float = 0.5) -> str:
    """One way of writing `a op b` in a language."""
    if rng.random() > words:
        gap = rng.choice(("", " "))
        return f"{a}{gap}{rng.choice(SIGNS[op])}{gap}{b}"
    if lang == "en":
        spell = max(a, b) <= 20 and rng.random() < 0.4
        left, right = (EN_NUMBERS[a], EN_NUMBERS[b]) if spell else (str(a), str(b))
        return f"{left} {rng.choice(EN_WORDS[op])} {right}"
    spell = max(a, b) <= 20 and rng.random() < 0.4
    left, right = (zh_number(a), zh_number(b)) if spell else (str(a), str(b))
    return f"{left}{rng.choice(ZH_WORDS[op])}{right}"


def _sum(a: int, op: str, b: int, value: int) -> Item:
    answer = f"{a} {op} {b} = {value}"

    def make(rng: random.Random) -> tuple[str, str]:
        lang = rng.choice(("en", "zh"))
        form = rng.choice(EN_FORMS if lang == "en" else ZH_FORMS)
        return form.format(e=expression(rng, a, op, b, lang)), answer

    return Item(f"sum:{answer}", f"sum{op}", "any", raws=(answer,), expect=(f"= {value}",), make=make)


def _too_big(rng: random.Random) -> tuple[str, str]:
    lang, op = rng.choice(("en", "zh")), rng.choice("+-×")
    low, high = rng.choice(((100, 999), (1000, 99999), (21, 99)))
    a, b = rng.randint(low, high), rng.randint(low, high)
    form = rng.choice(EN_FORMS if lang == "en" else ZH_FORMS)
    return form.format(e=expression(rng, a, op, b, lang)), TOO_BIG[lang]


def _bigger(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(range(101 if rng.random() < 0.5 else 21), 2)
    high, low = max(a, b), min(a, b)
    more = rng.random() < 0.6
    if rng.random() < 0.5:
        word = rng.choice(("bigger", "larger", "greater")) if more else "smaller"
        form = rng.choice(("Which is {w}, {a} or {b}?", "Which number is {w}, {a} or {b}?", "What is {w}, {a} or {b}?"))
        answer = f"{high} is bigger than {low}." if more else f"{low} is smaller than {high}."
        return form.format(a=a, b=b, w=word), answer
    form = rng.choice(("{a}和{b}哪个{w}?", "{a}和{b}谁{w}?", "{a}与{b}哪个更{w}?"))
    answer = f"{high}比{low}大。" if more else f"{low}比{high}小。"
    return form.format(a=a, b=b, w="大" if more else "小"), answer


def arithmetic() -> list[Item]:
    """All sums, differences and products of 0..20, exact quotients, tens, number order."""
    items = []
    for a in range(21):
        for b in range(21):
            items.append(_sum(a, "+", b, a + b))
            items.append(_sum(a, "×", b, a * b))
            if a >= b or a <= 10:
                items.append(_sum(a, "-", b, a - b))
            if 1 <= b <= 10 and 1 <= a <= 10:
                items.append(_sum(a * b, "÷", b, a))
    for a in range(10, 101, 10):
        for b in range(10, 101, 10):
            if max(a, b) > 20:
                items.append(_sum(a, "+", b, a + b))
    items.append(Item("too_big", "too_big", "any", make=_too_big))
    items.append(Item("bigger", "bigger", "any", make=_bigger))
    for n in range(31):
        items.append(Item(f"after:en:{n}", "order", "en", (f"What number comes after {n}?", f"What comes after {n}?"),
                          (f"{n + 1} comes after {n}.",), expect=(str(n + 1),)))  # fmt: skip
        items.append(Item(f"after:zh:{n}", "order", "zh", (f"{n}的后面是几?", f"{n}之后是几?", f"{n}后面的数是几?"),
                          (f"{n}后面是{n + 1}。",), expect=(str(n + 1),)))  # fmt: skip
    return items
