"""Writes the list of questions with what a right answer contains: `python -m tools.train_demo.questions FILE`."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .documents import all_items
from .items import Item, language
from .sums import expression

SEED = 7
Question = dict[str, Any]
BY_HAND: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("你好, 浙江的省会在哪里?", ("杭州",), "zh"),
    ("你好, 浙江的省会在哪里？", ("杭州",), "zh"),
    ("你好，浙江的省会在哪里？", ("杭州",), "zh"),
    ("你好浙江的省会在哪里", ("杭州",), "zh"),
    ("浙江的省会在哪里", ("杭州",), "zh"),
    ("浙江的省会在哪里?", ("杭州",), "zh"),
    ("浙江省的省会是哪里", ("杭州",), "zh"),
    ("浙江省的省会是哪里？", ("杭州",), "zh"),
    ("浙江省会是什么城市?", ("杭州",), "zh"),
    ("您好！请问浙江省的省会是哪座城市呢？", ("杭州",), "zh"),
    ("我想请教一下，浙江的省会叫什么名字？", ("杭州",), "zh"),
    ("What is the capital of France?", ("Paris",), "en"),
    ("what is the capital of france", ("Paris",), "en"),
    ("What's the capital of France", ("Paris",), "en"),
    ("Hello! Could you please tell me what the capital of France is?", ("Paris",), "en"),
    ("France's capital city is called what?", ("Paris",), "en"),
    ("The capital of France is", ("Paris",), "en"),
    ("What is the capital of Zhejiang?", ("Hangzhou",), "en"),
    ("Tell me a story", ("{story}",), "en"),
    ("Tell me a story about a dragon.", ("dragon",), "en"),
    ("讲个故事", ("{story}",), "zh"),
    ("给我讲一个关于小猫的故事吧", ("猫",), "zh"),
    ("What is the weather in Paris today?", ("do not know",), "en"),
    ("Who is the mayor of Boston?", ("do not know",), "en"),
    ("杭州今天的天气怎么样?", ("不知道",), "zh"),
    ("谁是英国首相?", ("不知道",), "zh"),
    ("What is 12345 + 67890?", ("too big",), "en"),
    ("hi", ("Hello",), "en"),
    ("HELLO", ("Hello",), "en"),
    ("你好！", ("你好",), "zh"),
    ("who are you", ("demo model",), "en"),
    ("你是谁", ("演示模型",), "zh"),
    ("What port does penstock serve use?", ("8000",), "en"),
    ("penstock 用的是哪个端口？", ("8000",), "zh"),
)  # fmt: skip
COMPLETE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("The capital of France is", ("Paris",)), ("The capital of Germany is", ("Berlin",)), ("The capital of Japan is", ("Tokyo",)),
    ("The capital of China is", ("Beijing",)), ("The capital of Italy is", ("Rome",)), ("The capital of Egypt is", ("Cairo",)),
    ("The capital of Canada is", ("Ottawa",)), ("The capital of Zhejiang is", ("Hangzhou",)), ("Paris is the capital of", ("France",)),
    ("法国的首都是", ("巴黎",)), ("中国的首都是", ("北京",)), ("日本的首都是", ("东京",)), ("浙江的省会是", ("杭州",)),
    ("浙江省的省会是", ("杭州",)), ("四川的省会是", ("成都",)), ("2 + 2 =", ("4",)), ("7 + 8 =", ("15",)), ("3 × 4 =", ("12",)),
    ("The sky is", ("blue",)), ("The opposite of hot is", ("cold",)), ("Once upon a time", ("{story}",)), ("从前", ("{story}",)),
    ("What is the capital of France?", ("Paris",)), ("你好, 浙江的省会在哪里?", ("杭州",)), ("The largest planet is", ("Jupiter",)),
    ("What is 3 + 4?", ("7",)), ("天空是", ("蓝",)), ("Hello", ("help",)),
)  # fmt: skip
TALKS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("My name is Tom.", "What is my name?"), ("Tom",)),
    (("Hi, my name is Sophie", "What is the capital of Italy?", "What is my name?"), ("Sophie",)),
    (("我叫小明", "我叫什么名字?"), ("小明",)),
    (("你好, 我叫张伟", "法国的首都是哪里?", "我叫什么?"), ("张伟",)),
    (("What is the capital of France?", "And Germany?"), ("Berlin",)),
    (("浙江的省会在哪里?", "那江苏呢?"), ("南京",)),
    (("日本的首都是哪里?", "韩国呢?"), ("首尔",)),
    (("Hello", "What is 3 + 4?", "Thank you"), ("welcome",)),
    (("你好", "3加4等于几?", "谢谢"), ("不客气",)),
    (("What is the capital of Spain?", "西班牙的首都是哪里?"), ("马德里",)),
    (("My favourite colour is blue.", "What is my favourite colour?"), ("blue",)),
    (("What colour is the sky?", "What does a cat say?", "How many days are in a week?", "What is 9 × 9?"), ("81",)),
)  # fmt: skip


def _chat(texts: tuple[str, ...], expect: tuple[str, ...], lang: str, group: str, *, held: bool) -> Question:
    return {
        "kind": "chat",
        "group": group,
        "lang": lang,
        "held_out": held,
        "turns": list(texts),
        "expect": list(expect),
    }


def _from_items(rng: random.Random, items: list[Item]) -> Iterator[Question]:
    take = {"capital_en": 110, "capital_zh": 110, "province_zh": 28, "province_en": 10, "reverse_en": 8, "reverse_zh": 8,
            "region_en": 6, "region_zh": 6, "city_zh": 6, "fact_en": 70, "fact_zh": 70, "chat": 104, "opposite": 16,
            "calendar": 20, "lexicon": 8, "unknown": 12}  # fmt: skip
    for group, count in take.items():
        pool = [item for item in items if item.group == group and (item.expect or group == "unknown")]
        # Items with forms kept from training come first, for they say more.
        pool = sorted(rng.sample(pool, len(pool)), key=lambda item: not item.held_out)[:count]
        for item in pool:
            held = bool(item.held_out) and rng.random() < 0.75
            text = rng.choice(item.held_out if held else item.ask)
            expect = item.expect or (("do not know",) if item.lang == "en" else ("不知道",))
            lang = "any" if group in ("lexicon", "chat") or "用" in text else language(item.answers[0])
            yield _chat((text,), expect, lang, group, held=held)


def _sums(rng: random.Random) -> Iterator[Question]:
    for op, most, count in (("+", 20, 24), ("-", 20, 18), ("×", 20, 24), ("÷", 10, 6)):
        for i in range(count):
            a, b = rng.randint(1, most), rng.randint(1, most)
            if op == "-":
                a, b = max(a, b), min(a, b)
            left = a * b if op == "÷" else a
            value = {"+": a + b, "-": a - b, "×": a * b, "÷": a}[op]
            lang = ("en", "zh")[i % 2]
            text = expression(rng, left, op, b, lang)
            form = rng.choice(
                ("What is {e}?", "how much is {e}", "Please work out {e}.")
                if lang == "en"
                else ("{e}等于多少?", "{e}等于几", "{e}得几？")
            )
            yield _chat(
                (form.format(e=text),), (f"= {value}",), "any", "sum" + op, held="work out" in form or "得几" in form
            )


def questions() -> list[Question]:
    """The whole list, in a fixed order."""
    rng = random.Random(SEED)
    # Questions by hand and talks hold trained forms too, so none of them counts as kept from training.
    out = [_chat((text,), expect, lang, "hand", held=False) for text, expect, lang in BY_HAND]
    out += [{"kind": "complete", "group": "complete", "lang": "any", "held_out": False, "turns": [text], "expect": list(expect)}
            for text, expect in COMPLETE]  # fmt: skip
    out += [_chat(turns, expect, "any", "talk", held=False) for turns, expect in TALKS]
    out += [*_from_items(rng, all_items()), *_sums(rng)]
    return out


def right(question: Question, answer: str, ended: bool) -> bool:
    """Whether an answer holds what is expected, in the asked language, and has ended by itself."""
    text = answer.strip()
    if not ended or not text:
        return False
    if "{story}" in question["expect"]:
        return len(text) > 60
    if (
        question["lang"] != "any"
        and question["group"] not in ("fact_en", "fact_zh")
        and language(text) != question["lang"]
    ):
        return False
    return all(part.lower() in text.lower() for part in question["expect"])


def main() -> None:
    """Writes the file named on the command line."""
    lines = [json.dumps({"id": i, **q}, ensure_ascii=False) for i, q in enumerate(questions())]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} questions")


if __name__ == "__main__":
    main()
