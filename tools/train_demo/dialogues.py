"""Talks of several turns in which a later answer needs an earlier turn, and what lies outside the model's knowledge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from .items import Item, language, rows

Turn = tuple[str, str]
NAMES = ("Tom Anna Lily Jack Peter Mary Lucy Bob Alice David Emma John Kate Mike Nina Oscar Paul Rose Sam Tina Victor Wendy Eva Max "
         "Leo Mia Ben Sara Adam Julia Kevin Laura Mark Olga Ivan Carlos Maria Amy Frank Grace Henry Iris Ken Linda Nick Pam Ruth "
         "Steve Ted Zoe Daniel Sophie").split()  # fmt: skip
ZH_NAMES = ("小明 小红 小华 小丽 小刚 小芳 小强 小美 小李 小王 张伟 李娜 王芳 刘洋 陈静 杨光 赵云 周杰 吴磊 徐丽 孙悦 马超 朱琳 胡军 林涛 何勇 "
            "高山 罗兰 郑爽 梁宇 谢天 宋佳 唐果 韩梅 冯雪 董浩 程英 曹操 袁枚 邓华 许仙 傅雷 沈从 曾国 彭飞 吕布 苏轼 卢俊 阿明 阿强").split()  # fmt: skip
COLOURS = {
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "yellow": "黄色",
    "black": "黑色",
    "white": "白色",
    "purple": "紫色",
    "pink": "粉色",
}
EN_CITIES = (
    "Paris London Tokyo Beijing Shanghai Hangzhou Berlin Rome Madrid Sydney Boston Chicago Moscow Cairo Delhi".split()
)
ZH_CITIES = "北京 上海 杭州 广州 深圳 南京 成都 武汉 西安 苏州 宁波 青岛 天津 重庆 长沙".split()
UNKNOWN_EN = "I am only a tiny demo model, so I do not know that."
UNKNOWN_ZH = "我只是一个很小的演示模型, 这个我不知道。"


def _made_up(rng: random.Random) -> str:
    """A name that was never seen, so that recall is learned as copying and not as a list."""
    return rng.choice("BCDFGHJKLMNPRSTVZ") + "".join(rng.choice(("a", "e", "i", "o", "u")) + rng.choice("bdklmnrst")
                                                     for _ in range(rng.randint(1, 2))) + rng.choice(("", "a", "o", "y"))  # fmt: skip


def _name(rng: random.Random, lang: str) -> list[Turn]:
    if lang == "en":
        name = _made_up(rng) if rng.random() < 0.3 else rng.choice(NAMES)
        told = rng.choice(("My name is {n}.", "I am {n}.", "Hi, my name is {n}", "I'm {n}", "Call me {n}.", "Hello, I am {n}.",
                           "my name is {n}", "You can call me {n}.")).format(n=name)  # fmt: skip
        asked = rng.choice(("What is my name?", "Do you remember my name?", "Who am I?", "what's my name", "Tell me my name.",
                            "Do you know my name?"))  # fmt: skip
        return [(told, f"Nice to meet you, {name}!"), (asked, f"Your name is {name}.")]
    name = (
        rng.choice(ZH_NAMES)
        if rng.random() < 0.8
        else rng.choice((*NAMES, rng.choice("张王李赵陈") + rng.choice("东南西北海山河")))
    )
    told = rng.choice(
        ("我叫{n}", "我是{n}", "我的名字是{n}", "你好, 我叫{n}", "你好, 我是{n}。", "叫我{n}吧", "我的名字叫{n}。")
    ).format(n=name)
    asked = rng.choice(
        (
            "我叫什么名字?",
            "你记得我的名字吗?",
            "我叫什么?",
            "我是谁?",
            "我的名字是什么?",
            "你知道我叫什么吗?",
            "还记得我叫什么吗?",
        )
    )
    return [(told, f"你好, {name}! 很高兴认识你。"), (asked, f"你叫{name}。")]


def _colour(rng: random.Random, lang: str) -> list[Turn]:
    en, zh = rng.choice(list(COLOURS.items()))
    if lang == "en":
        told = rng.choice((f"My favourite colour is {en}.", f"I like {en}.", f"My favorite color is {en}"))
        asked = rng.choice(("What is my favourite colour?", "What colour do I like?", "Which colour do I like best?"))
        return [(told, f"{en.capitalize()} is a nice colour."), (asked, f"Your favourite colour is {en}.")]
    told = rng.choice((f"我最喜欢{zh}", f"我喜欢{zh}", f"我最喜欢的颜色是{zh}"))
    asked = rng.choice(("我最喜欢什么颜色?", "我喜欢什么颜色?", "我喜欢的颜色是什么?"))
    return [(told, f"{zh}很好看。"), (asked, f"你最喜欢{zh}。")]


def _city(rng: random.Random, lang: str) -> list[Turn]:
    if lang == "en":
        city = rng.choice(EN_CITIES)
        told = rng.choice((f"I live in {city}.", f"I am from {city}.", f"My home is {city}"))
        return [
            (told, f"{city} is a nice city."),
            (rng.choice(("Where do I live?", "Where am I from?")), f"You live in {city}."),
        ]
    city = rng.choice(ZH_CITIES)
    told = rng.choice((f"我住在{city}", f"我家在{city}", f"我是{city}人"))
    return [(told, f"{city}是个好地方。"), (rng.choice(("我住在哪里?", "我家在哪里?")), f"你住在{city}。")]


def recall(rng: random.Random) -> list[Turn]:
    """Tells something, later asks for it."""
    lang = rng.choice(("en", "zh"))
    return rng.choice((_name, _name, _colour, _city))(rng, lang)


def follow(rng: random.Random, capitals: Sequence[Item]) -> list[Turn]:
    """A question about one place, then "and X?" about others."""
    lang = rng.choice(("en", "zh"))
    pool = [item for item in capitals if item.lang == lang]
    chosen = rng.sample(pool, rng.randint(2, 4))
    turns = [chosen[0].draw(rng)]
    for item in chosen[1:]:
        name = item.name.split(":")[-1]
        if lang == "en":
            form = rng.choice(
                ("And {c}?", "and {c}", "What about {c}?", "And the capital of {c}?", "How about {c}?", "And of {c}?")
            )
        else:
            form = rng.choice(("{c}呢?", "那{c}呢?", "那么{c}呢", "{c}的呢?", "那{c}的呢?"))
        turns.append((form.format(c=name), item.answers[0]))
    return turns


def nobody(rng: random.Random) -> list[Turn]:
    """Asks for what was never told."""
    turns = recall(rng)
    question = turns[1][0]
    return [
        (question, "我不知道, 你还没告诉我。" if language(question) == "zh" else "I do not know, you have not told me.")
    ]


def unknown() -> list[Item]:
    """Questions outside the corpus, honestly answered."""
    items = [Item(f"unknown:{q}", "unknown", language(q), (q,), (UNKNOWN_ZH if language(q) == "zh" else UNKNOWN_EN,))
             for q in rows("unknown.txt")]  # fmt: skip
    return [*items, Item("unknown:made_up", "unknown_make", "any", make=_unknown)]


def _unknown(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.3:
        return _office(rng)
    if rng.random() < 0.5:
        word = _made_up(rng)
        form = rng.choice(("What is the capital of {w}ia?", "Who is {w}?", "Where is {w}?", "What is {w}?", "Tell me about {w}.",
                           "What does {w} mean?", "Who wrote {w}?", "Do you know {w}?", "When was {w} born?", "Who is {w} {v}?",
                           "How do I make {w}?", "What happened in {y}?", "Explain {w} to me"))  # fmt: skip
        return form.format(w=word, v=_made_up(rng), y=rng.randint(1000, 2030)), UNKNOWN_EN
    word = "".join(rng.choice("阿贝卡德尔法格里姆诺皮塔乌维克森布罗扎") for _ in range(rng.randint(2, 4)))
    form = rng.choice(("{w}的首都是哪里?", "{w}是谁?", "{w}在哪里?", "{w}是什么?", "介绍一下{w}", "什么是{w}?", "{w}是谁写的?", "怎么做{w}?",
                       "{y}年发生了什么?", "解释一下{w}", "{w}是哪年出生的?"))  # fmt: skip
    return form.format(w=word, y=rng.randint(1000, 2030)), UNKNOWN_ZH


def _office(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        place = rng.choice((*EN_CITIES, "France", "Germany", "Japan", "China", "Italy", "Brazil", "Canada", "India"))
        what = rng.choice(
            ("population", "mayor", "weather", "area", "history", "flag", "president", "national anthem", "king")
        )
        form = rng.choice(
            ("Who is the {w} of {p}?", "What is the {w} of {p}?", "Tell me the {w} of {p}.", "{w} of {p}")
        )
        return form.format(w=what, p=place), UNKNOWN_EN
    place = rng.choice((*ZH_CITIES, "法国", "德国", "日本", "中国", "意大利", "巴西", "加拿大", "印度", "英国"))
    what = rng.choice(("人口", "市长", "天气", "面积", "历史", "国旗", "总统", "国歌", "房价", "首相"))
    form = rng.choice(
        ("{p}的{w}是什么?", "{p}的{w}怎么样?", "{p}的{w}是多少?", "{p}的{w}是谁?", "谁是{p}{w}?", "介绍{p}的{w}")
    )
    return form.format(w=what, p=place), UNKNOWN_ZH


TALKS: tuple[Callable[[random.Random], list[Turn]], ...] = (recall, nobody)
