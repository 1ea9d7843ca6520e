"""Opposites, days and months, translation of a few words, copying."""

from __future__ import annotations

import random

from .items import Item, rows

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
ZH_DAYS = tuple("星期" + c for c in "一二三四五六日")
ZH_MONTHS = tuple(c + "月" for c in "一 二 三 四 五 六 七 八 九 十 十一 十二".split())
DAYS_IN = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ZH_PLANETS = "水星 金星 地球 火星 木星 土星 天王星 海王星".split()
LEXICON = {
    "cat": "猫", "dog": "狗", "bird": "鸟", "fish": "鱼", "horse": "马", "cow": "牛", "sheep": "羊", "pig": "猪", "tiger": "老虎",
    "rabbit": "兔子", "water": "水", "fire": "火", "sun": "太阳", "moon": "月亮", "star": "星星", "mountain": "山", "river": "河",
    "tree": "树", "flower": "花", "apple": "苹果", "banana": "香蕉", "rice": "米饭", "tea": "茶", "milk": "牛奶", "book": "书",
    "pen": "笔", "school": "学校", "teacher": "老师", "student": "学生", "friend": "朋友", "mother": "妈妈", "father": "爸爸",
    "house": "房子", "door": "门", "car": "汽车", "train": "火车", "road": "路", "city": "城市", "computer": "电脑", "red": "红色",
    "blue": "蓝色", "green": "绿色", "yellow": "黄色", "black": "黑色", "white": "白色", "one": "一", "two": "二", "three": "三",
    "ten": "十", "good": "好", "big": "大", "small": "小", "love": "爱", "happy": "高兴", "today": "今天", "tomorrow": "明天",
}  # fmt: skip


def opposites() -> list[Item]:
    """Both directions of every pair, in both languages."""
    en: dict[str, list[str]] = {}
    zh: dict[str, list[str]] = {}
    for line in rows("pairs.tsv"):
        a, b, c, d = (cell.strip() for cell in line.split("|"))
        for table, left, right in ((en, a, b), (zh, c, d)):
            table.setdefault(left, []).append(right)
            table.setdefault(right, []).append(left)
    items = []
    for word, others in en.items():
        forms = (f"What is the opposite of {word}?", f"opposite of {word}", f"Tell me the opposite of {word}.",
                 f"What is the antonym of {word}?", f"The opposite of {word} is", f"Which word is the opposite of {word}?")  # fmt: skip
        answer = f"The opposite of {word} is {others[0]}."
        items.append(Item(f"opposite:en:{word}", "opposite", "en", forms, (answer,),
                          (f"Give me the opposite of the word {word}.",), (answer,), (others[0],)))  # fmt: skip
    for word, others in zh.items():
        zh_forms = (
            f"{word}的反义词是什么?",
            f"{word}的反义词",
            f"什么是{word}的反义词?",
            f"{word}的相反词是什么?",
            f"{word}的反义词是",
        )
        answer = f"{word}的反义词是{others[0]}。"
        items.append(Item(f"opposite:zh:{word}", "opposite", "zh", zh_forms, (answer,), (f"请说出{word}的反义词",), (answer,),
                          (others[0],)))  # fmt: skip
    return items


def calendar() -> list[Item]:
    """What comes after and before days and months; month numbers and lengths; planet numbers."""
    items = []
    for names, kind, of in ((DAYS, "day", "week"), (MONTHS, "month", "year")):
        for i, name in enumerate(names):
            after, before = names[(i + 1) % len(names)], names[i - 1]
            items.append(Item(f"after:{name}", "calendar", "en",
                              (f"What comes after {name}?", f"Which {kind} comes after {name}?", f"What {kind} is after {name}?",
                               f"What is the {kind} after {name}?"),
                              (f"{after} comes after {name}.",), (f"{name} is followed by which {kind}?",),
                              (f"The {kind} after {name} is {after}.",), (after,)))  # fmt: skip
            items.append(Item(f"before:{name}", "calendar", "en",
                              (f"What comes before {name}?", f"Which {kind} comes before {name}?", f"What {kind} is before {name}?"),
                              (f"{before} comes before {name}.",), (), (), (before,)))  # fmt: skip
            items.append(Item(f"nth:{name}", "calendar", "en",
                              (f"What is the {ORDINALS[i]} {kind} of the {of}?", f"Which is the {ORDINALS[i]} {kind} of the {of}?",
                               f"{ORDINALS[i]} {kind} of the {of}"),
                              (f"The {ORDINALS[i]} {kind} of the {of} is {name}.",), (), (), (name,)))  # fmt: skip
    for i, name in enumerate(ZH_DAYS):
        after, before = ZH_DAYS[(i + 1) % 7], ZH_DAYS[i - 1]
        items.append(Item(f"after:{name}", "calendar", "zh", (f"{name}之后是星期几?", f"{name}的后一天是星期几?", f"{name}后面是星期几?"),
                          (f"{name}之后是{after}。",), (f"今天{name}, 明天星期几?",), (), (after,)))  # fmt: skip
        items.append(Item(f"before:{name}", "calendar", "zh", (f"{name}之前是星期几?", f"{name}的前一天是星期几?", f"{name}前面是星期几?"),
                          (f"{name}之前是{before}。",), (), (), (before,)))  # fmt: skip
    for i, name in enumerate(ZH_MONTHS):
        after = ZH_MONTHS[(i + 1) % 12]
        items.append(Item(f"after:{name}", "calendar", "zh", (f"{name}之后是几月?", f"{name}后面是几月?", f"{name}的下一个月是几月?"),
                          (f"{name}之后是{after}。",), (), (), (after,)))  # fmt: skip
        days = f"{DAYS_IN[i]}天" + (", 闰年29天" if i == 1 else "")
        items.append(Item(f"days:{name}", "calendar", "zh", (f"{name}有多少天?", f"{name}有几天?", f"{i + 1}月有多少天?"),
                          (f"{name}有{days}。",), (), (), (str(DAYS_IN[i]),)))  # fmt: skip
        en = MONTHS[i]
        more = ", or 29 in a leap year" if i == 1 else ""
        items.append(Item(f"days:{en}", "calendar", "en", (f"How many days are in {en}?", f"How many days does {en} have?"),
                          (f"{en} has {DAYS_IN[i]} days{more}.",), (), (), (str(DAYS_IN[i]),)))  # fmt: skip
    for i, (en, zh) in enumerate(zip(PLANETS, ZH_PLANETS, strict=True)):
        items.append(Item(f"nth:{en}", "calendar", "en",
                          (f"What is the {ORDINALS[i]} planet from the sun?", f"Which planet is {ORDINALS[i]} from the sun?"),
                          (f"The {ORDINALS[i]} planet from the sun is {en}.",), (), (), (en,)))  # fmt: skip
        items.append(Item(f"nth:{zh}", "calendar", "zh", (f"离太阳第{i + 1}近的行星是什么?", f"太阳系第{i + 1}颗行星是什么?"),
                          (f"太阳系第{i + 1}颗行星是{zh}。",), (), (), (zh,)))  # fmt: skip
    return items


def lexicon() -> list[Item]:
    """A few words across the two languages."""
    items = []
    for en, zh in LEXICON.items():
        items.append(Item(f"lex:zh:{en}", "lexicon", "en",
                          (f"How do you say {en} in Chinese?", f"What is {en} in Chinese?", f"Translate {en} into Chinese",
                           f"{en} in Chinese"), (f"{en[0].upper() + en[1:]} in Chinese is {zh}.",), (), (), (zh,)))  # fmt: skip
        items.append(Item(f"lex:en:{en}", "lexicon", "zh",
                          (f"{zh}用英语怎么说?", f"{zh}的英文是什么?", f"{zh}的英语是什么?", f"把{zh}翻译成英文", f"{zh}用英文怎么说?"),
                          (f"{zh}的英文是 {en}。",), (), (), (en,)))  # fmt: skip
    return items


def _copy(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        words = " ".join(rng.choice(list(LEXICON)) for _ in range(rng.randint(1, 4)))
        return rng.choice(("Repeat after me: {w}", "Say {w}", "Please say: {w}", "Repeat: {w}")).format(w=words), words
    words = "".join(rng.choice(list(LEXICON.values())) for _ in range(rng.randint(1, 4)))
    return rng.choice(("请跟我说: {w}", "跟我说{w}", "重复: {w}", "请说: {w}")).format(w=words), words


def copying() -> list[Item]:
    """Say what the user said."""
    return [Item("copy", "copy", "any", make=_copy)]
