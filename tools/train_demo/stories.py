"""Short stories told from skeletons with open places."""

from __future__ import annotations

import random

from .items import Item, paragraphs

EN = {
    "H": "cat dog rabbit fox bear mouse bird duck frog lion tiger panda monkey turtle girl boy robot dragon horse owl".split(),
    "N": "Lily Tom Mia Ben Anna Sam Lucy Max Rose Leo Nina Jack".split(),
    "P": [
        "the river",
        "the sea",
        "the old mill",
        "the big tree",
        "the blue lake",
        "the hill",
        "the forest",
        "the bridge",
    ],
    "T": ["a red ball", "a gold key", "a small book", "a green hat", "a silver bell", "a warm coat", "a round stone"],
    "F": "squirrel hedgehog goose goat deer mole pony sparrow".split(),
}
ZH = {
    "H": "猫 狗 兔 狐狸 熊 老鼠 鸟 鸭 青蛙 狮子 老虎 熊猫 猴子 乌龟 马 机器人 龙 猪 羊 鹿".split(),
    "N": "乐乐 豆豆 花花 明明 圆圆 小白 贝贝 朵朵 毛毛 亮亮".split(),
    "P": "小河 大海 老磨坊 大树 蓝色的湖 小山 森林 石桥".split(),
    "T": "一个红球 一把金钥匙 一本小书 一顶绿帽子 一个银铃铛 一件暖和的外套 一块圆石头".split(),
    "F": "松鼠 刺猬 大雁 山羊 鼹鼠 麻雀 小马 喜鹊".split(),
}  # fmt: skip
EN_ASK = ("Tell me a story", "Tell me a story.", "Tell a story", "Can you tell me a story?", "I want a story", "Write a story",
          "Write a short story", "Tell me a short story", "Please tell me a story", "story", "Tell me another story",
          "Once upon a time", "Do you know a story?", "Make up a story")  # fmt: skip
EN_ABOUT = ("Tell me a story about a {h}", "Write a story about a {h}", "a story about a {h}", "Tell me a short story about a {h}.",
            "Can you tell me a story about a {h}?")  # fmt: skip
ZH_ASK = ("讲个故事", "给我讲个故事", "讲一个故事", "讲个小故事", "说个故事", "写一个故事", "我想听故事", "你会讲故事吗?", "请讲一个故事",
          "来个故事", "再讲一个故事", "写个小故事", "给我讲一个故事吧", "故事")  # fmt: skip
ZH_ABOUT = ("讲个小{h}的故事", "给我讲个{h}的故事", "讲一个关于{h}的故事", "写一个小{h}的故事", "我想听{h}的故事")


def story(rng: random.Random, lang: str, hero: str | None = None) -> tuple[str, str]:
    """(hero, text) of one story."""
    table, skeletons = (EN, paragraphs("stories_en.txt")) if lang == "en" else (ZH, paragraphs("stories_zh.txt"))
    words = {key: rng.choice(values) for key, values in table.items()}
    if hero:
        words["H"] = hero
    return words["H"], rng.choice(skeletons).format(**words)


def _en(rng: random.Random) -> tuple[str, str]:
    hero, text = story(rng, "en")
    if rng.random() < 0.5:
        return rng.choice(EN_ABOUT).format(h=hero), text
    return rng.choice(EN_ASK), text


def _zh(rng: random.Random) -> tuple[str, str]:
    hero, text = story(rng, "zh")
    if rng.random() < 0.5:
        return rng.choice(ZH_ABOUT).format(h=hero), text
    return rng.choice(ZH_ASK), text


def stories() -> list[Item]:
    """Stories in both languages; about somebody or about anybody."""
    return [Item("story:en", "story", "en", make=_en), Item("story:zh", "story", "zh", make=_zh)]
