"""The pre-tokenizers of GGUF files by the name in ``tokenizer.ggml.pre``, as data.

Sources: the ``pre_tokenizer`` of each model's own ``tokenizer.json`` where it is one pattern; the others are the lists
of llama.cpp (``src/llama-vocab.cpp``, MIT), which restate such files. Patterns of a list are applied one after the
other, each within the pieces of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.text.facts import GPT2_PATTERN, LLAMA3_PATTERN, QWEN_PATTERN, TEKKEN_PATTERN


@dataclass(frozen=True)
class PreTokenizer:
    """``whole_first``: a piece which is a token itself is that token, whatever merging would give.

    ``add_bos``: whether a text begins with BOS when the file does not say. ``prefix``: tokens put before a text.
    """

    patterns: tuple[str, ...]
    whole_first: bool = False
    add_bos: bool = False
    normalization: str | None = None
    prefix: tuple[str, ...] = ()


def _set(ranges: str) -> str:
    """Hexadecimal code points and ranges as the inside of a regular expression's set."""
    ends = [[rf"\x{{{end}}}" for end in part.split("-")] for part in ranges.split()]
    return "".join("-".join(pair) for pair in ends)


# Letters with case, as DeepSeek's first tokenizer lists them.
_CASED = _set(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_HAN_AND_BELOW = _set("4E00-9FA5 800-4E00 AC00-D7FF")
_HAN_AND_KANA = _set("4E00-9FA5 3040-309F 30A0-30FF")
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_WORDS = (
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_QWEN35 = QWEN_PATTERN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")

_GPT2 = PreTokenizer((GPT2_PATTERN,))
_DIGITS_GPT2 = PreTokenizer((r"\p{N}", GPT2_PATTERN))
_QWEN2 = PreTokenizer((QWEN_PATTERN,), normalization="NFC")
_QWEN_LIKE = PreTokenizer((QWEN_PATTERN,))
_LLAMA3 = PreTokenizer((LLAMA3_PATTERN,), whole_first=True, add_bos=True)
_LLAMA3_LIKE = PreTokenizer((LLAMA3_PATTERN,))
_GLM4 = PreTokenizer((LLAMA3_PATTERN,), prefix=("[gMASK]", "<sop>"))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", f"[{_HAN_AND_KANA}]+", _DEEPSEEK_WORDS))
_BLOOM_LIKE = PreTokenizer((_BLOOM,))
_GPT4O_LIKE = PreTokenizer((_GPT4O,))
_BAILING = PreTokenizer(
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+",
    )
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]")),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_set('21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002')}]+",
            r"\s+$", f"[{_HAN_AND_BELOW}]+", r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"[{_HAN_AND_BELOW}]+", r"\p{N}")),
    "seed-coder": PreTokenizer(
        (
            _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        )
    ),
    "tekken": PreTokenizer((TEKKEN_PATTERN,), whole_first=True, add_bos=True),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "qwen35": PreTokenizer((_QWEN35,), normalization="NFC"),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", QWEN_PATTERN)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}+|")), whole_first=True),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "gigachat", "a.x-4.0", "mellum"), _GPT2),
    **dict.fromkeys(("trillion", "granite-docling"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), _DIGITS_GPT2),
    "mellum2": _DIGITS_GPT2,
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3),
    "midm-2.0": _LLAMA3,
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3_LIKE),
    **dict.fromkeys(("chatglm-bpe", "glm4"), _GLM4),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2"), _QWEN2),
    **dict.fromkeys(("stablelm2", "megrez", "hunyuan", "solar-open", "grok-2"), _QWEN_LIKE),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), _BLOOM_LIKE),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"), _GPT4O_LIKE),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
}  # fmt: skip
