"""Countries, provinces and their capitals, in both languages."""

from __future__ import annotations

from .items import Item, rows

EN_CAPITAL = (
    "What is the capital of {c}?", "What is the capital of {c}?", "Capital of {c}?", "Tell me the capital of {c}.",
    "Which city is the capital of {c}?", "Do you know the capital of {c}?", "{c} capital", "Where is the capital of {c}?",
    "Name the capital of {c}.", "Can you tell me what the capital of {c} is?", "I want to know the capital of {c}.",
    "the capital of {c}", "What city is the capital of {c}?", "What is the capital city of {c}?", "{c}'s capital?",
    "Which is the capital of {c}?", "Please tell me the capital of {c}.", "The capital of {c} is", "The capital of {c}?",
)  # fmt: skip
EN_CAPITAL_HELD = (
    "Could you tell me the capital of {c}?",
    "Which city serves as the capital of {c}?",
    "Do you happen to know {c}'s capital?",
    "Say, what's the capital city of {c}",
)
ZH_CAPITAL = (
    "{c}的{k}在哪里?", "{c}的{k}是哪里?", "{c}的{k}是什么?", "{c}的{k}是哪个城市?", "{c}{k}是哪里?", "{c}{k}在哪?",
    "{c}的{k}叫什么?", "你知道{c}的{k}吗?", "告诉我{c}的{k}", "哪个城市是{c}的{k}?", "{c}{k}", "{c}的{k}", "{c}的{k}是?",
    "{c}的{k}在哪儿?", "{c}{k}是什么?", "{c}的{k}是哪座城市?", "{c}的{k}是哪儿?", "什么城市是{c}的{k}?", "{c}的{k}是",
    "{c}的{k}在什么地方?", "我想问{c}的{k}是哪里", "{c}{k}在哪里?",
)  # fmt: skip
ZH_CAPITAL_HELD = ("能告诉我{c}的{k}是哪里吗?", "{c}的{k}位于哪里?", "说说{c}的{k}是哪个城市", "{c}的{k}究竟是哪里?")


def _fill(forms: tuple[str, ...], names: list[str], **words: str) -> tuple[str, ...]:
    return tuple(form.format(c=name, **words) for name in names for form in forms)


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def countries() -> list[Item]:
    """Capital, country of a capital and continent, for every country and both languages."""
    items = []
    for line in rows("countries.tsv"):
        en, en_more, capital, zh, zh_more, zh_capital, region, zh_region = (cell.strip() for cell in line.split("|"))
        # The first name is repeated so that it stays the usual one.
        en_names = [en, en, *filter(None, en_more.split(",")), *([en[4:]] if en.startswith("the ") else [])]
        zh_names = [zh, zh, *filter(None, zh_more.split(","))]
        end = "" if capital.endswith(".") else "."
        answer = f"The capital of {en} is {capital}{end}"
        items.append(Item(
            f"capital:en:{en}", "capital_en", "en", _fill(EN_CAPITAL, en_names), (answer,), _fill(EN_CAPITAL_HELD, [en]),
            (answer, f"The capital city of {en} is {capital}{end}"), (capital.rstrip("."),),
        ))  # fmt: skip
        zh_answer = f"{zh}的首都是{zh_capital}。"
        items.append(Item(
            f"capital:zh:{zh}", "capital_zh", "zh", _fill(ZH_CAPITAL, zh_names, k="首都"), (zh_answer,),
            _fill(ZH_CAPITAL_HELD, [zh], k="首都"), (zh_answer,), (zh_capital,),
        ))  # fmt: skip
        place = capital.rstrip(".")
        items.append(Item(
            f"country:en:{en}", "reverse_en", "en",
            tuple(f.format(c=place) for f in ("{c} is the capital of which country?", "Which country has the capital {c}?",
                  "What country is {c} the capital of?", "{c} is the capital of", "Which country is {c} the capital of?")),
            (f"{_cap(place)} is the capital of {en}.",), (), (f"{place} is the capital of {en}.",), (en,),
        ))  # fmt: skip
        items.append(Item(
            f"country:zh:{zh}", "reverse_zh", "zh",
            tuple(f.format(c=zh_capital) for f in ("{c}是哪个国家的首都?", "{c}是哪国的首都?", "哪个国家的首都是{c}?",
                  "{c}是什么国家的首都?")),
            (f"{zh_capital}是{zh}的首都。",), (), (f"{zh_capital}是{zh}的首都。",), (zh,),
        ))  # fmt: skip
        items.append(Item(
            f"region:en:{en}", "region_en", "en",
            _fill(("Which continent is {c} in?", "Where is {c}?", "What continent is {c} in?", "On which continent is {c}?"),
                  en_names),
            (f"{_cap(en)} is in {region}.",), (f"{_cap(en)} is on which continent?",), (), (region,),
        ))  # fmt: skip
        items.append(Item(
            f"region:zh:{zh}", "region_zh", "zh",
            _fill(("{c}在哪个洲?", "{c}在哪里?", "{c}属于哪个洲?", "{c}在什么洲?"), zh_names),
            (f"{zh}在{zh_region}。",), (f"{zh}位于哪个洲?",), (), (zh_region,),
        ))  # fmt: skip
    return items


def provinces() -> list[Item]:
    """Capitals of the provinces of China and the province of each such city."""
    items = []
    for line in rows("provinces.tsv"):
        short, full, capital, en, en_capital, kind = (cell.strip() for cell in line.split("|"))
        other = {"省会": "首府", "首府": "省会"}[kind]
        ask = _fill(ZH_CAPITAL, [short, short, full], k=kind) + _fill(ZH_CAPITAL[:8], [short], k=other)
        ask += _fill(ZH_CAPITAL[:8], [short, full], k="首府" if kind == "首府" else "省会城市")
        held = _fill(ZH_CAPITAL_HELD, [short, full], k=kind)
        answer = f"{full}的{kind}是{capital}。"
        items.append(Item(f"province:zh:{short}", "province_zh", "zh", ask, (answer,), held,
                          (answer, f"{short}的{kind}是{capital}。", f"{short}省会是{capital}。"), (capital,)))  # fmt: skip
        answer = f"The capital of {en} is {en_capital}."
        ask = _fill(EN_CAPITAL, [en, en, f"{en} province"])
        items.append(Item(f"province:en:{en}", "province_en", "en", ask, (answer,), _fill(EN_CAPITAL_HELD, [en]),
                          (answer,), (en_capital,)))  # fmt: skip
        answer = f"{capital}是{full}的{kind}。"
        ask = tuple(f.format(c=capital) for f in ("{c}是哪个省的省会?", "{c}在哪个省?", "{c}是哪里的省会?", "{c}属于哪个省?",
                                                  "{c}在哪里?"))  # fmt: skip
        items.append(Item(f"city:zh:{capital}", "city_zh", "zh", ask, (answer,), (), (answer,), (short,)))
        ask = tuple(
            f.format(c=en_capital) for f in ("Which province is {c} in?", "Where is {c}?", "{c} is the capital of")
        )
        items.append(Item(f"city:en:{en_capital}", "city_en", "en", ask, (f"{en_capital} is the capital of {en}, China.",),
                          (), (f"{en_capital} is the capital of {en}, China.",), (en,)))  # fmt: skip
    return items
