"""What each ``tokenizer_class`` does in code that its files do not say, as data. No code of a checkpoint is run."""

from __future__ import annotations

from dataclasses import dataclass

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
QWEN_PATTERN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
LLAMA3_PATTERN = QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# Mistral's "tekken": words are cut where capitals begin, and there are no contractions.
TEKKEN_PATTERN = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"""
    r"""|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
PATTERNS = (GPT2_PATTERN, QWEN_PATTERN, LLAMA3_PATTERN, TEKKEN_PATTERN)

QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
LLAMA3_SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)  # fmt: skip
CHATGLM2_SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
CHATGLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
CHATGLM4_SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *CHATGLM3_ROLES)

# Files before version 7 do not list them.
TEKKEN_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
# How many ids ChatGLM-6B's first release keeps for images before those of text; later ones say 0.
CHATGLM1_IMAGE_TOKENS = 20_000


@dataclass(frozen=True)
class TokenizerFacts:
    """Facts of one tokenizer class; ``None`` means that the files decide.

    ``specials``: control tokens numbered from the end of the base vocabulary, in order.
    ``prefix``, ``suffix``: tokens put before and after an encoded text. ``literal``: control tokens that are never
    read from text (a bare word would do harm). ``inside``, ``reserved``: control tokens that lie in the base
    vocabulary, by text or by id.
    ``pattern``: how byte-level BPE cuts text before merging. ``transform``: rewriting of text before encoding.
    """

    specials: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    literal: frozenset[str] = frozenset()
    inside: tuple[str, ...] = ()
    reserved: tuple[int, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    bos: str | None = None
    eos: str | None = None
    unk: str | None = None
    pad: str | None = None
    pattern: str | None = None
    normalization: str | None = None
    transform: str | None = None


_GPT2 = TokenizerFacts(pattern=GPT2_PATTERN, bos="<|endoftext|>", eos="<|endoftext|>", add_bos=False)
_QWEN2 = TokenizerFacts(pattern=QWEN_PATTERN, normalization="NFC", eos="<|endoftext|>", pad="<|endoftext|>")
_LLAMA = TokenizerFacts(add_bos=True, bos="<s>", eos="</s>", unk="<unk>")

LLAMA3 = TokenizerFacts(
    specials=LLAMA3_SPECIALS, prefix=("<|begin_of_text|>",), bos="<|begin_of_text|>", eos="<|end_of_text|>",
    pattern=LLAMA3_PATTERN,
)  # fmt: skip
QWEN = TokenizerFacts(
    specials=QWEN_SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>", pattern=QWEN_PATTERN, normalization="NFC"
)
CHATGLM1 = TokenizerFacts(
    bos="<sop>",
    eos="<eop>",
    pad="<pad>",
    unk="<unk>",
    suffix=("[gMASK]", "<sop>"),
    transform="chatglm1",
    inside=("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<ENC>"),
)
CHATGLM2 = TokenizerFacts(
    specials=(*CHATGLM2_SPECIALS, *CHATGLM3_ROLES), literal=frozenset({"sop", "eop"}), prefix=("[gMASK]", "sop"),
    bos="<s>", eos="</s>", unk="<unk>", pad="<unk>", add_bos=False,
)  # fmt: skip
CHATGLM4 = TokenizerFacts(
    specials=CHATGLM4_SPECIALS, prefix=("[gMASK]", "<sop>"), eos="<|endoftext|>", pad="<|endoftext|>",
    pattern=LLAMA3_PATTERN,
)  # fmt: skip

TEKKEN = TokenizerFacts(add_bos=True, bos="<s>", eos="</s>", unk="<unk>", pad="<pad>")

TABLE: dict[str, TokenizerFacts] = {
    "QWenTokenizer": QWEN,
    "Qwen2Tokenizer": _QWEN2,
    "ChatGLMTokenizer": CHATGLM2,
    "ChatGLM4Tokenizer": CHATGLM4,
    "BaichuanTokenizer": TokenizerFacts(
        add_bos=False, add_eos=False, bos="<s>", eos="</s>", unk="<unk>", reserved=(195, 196)
    ),
    "BaiChuanTokenizer": TokenizerFacts(
        add_bos=False, add_eos=False, bos="<s>", eos="</s>", unk="<unk>", reserved=(195, 196)
    ),
    "LlamaTokenizer": _LLAMA,
    "CodeLlamaTokenizer": _LLAMA,
    "InternLM2Tokenizer": _LLAMA,
    "InternLMTokenizer": _LLAMA,
    "GemmaTokenizer": TokenizerFacts(add_bos=True, bos="<bos>", eos="<eos>", unk="<unk>", pad="<pad>"),
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
}


def facts_for(tokenizer_class: str | None) -> TokenizerFacts:
    """The facts of a class by its name in ``tokenizer_config.json``, with or without ``Fast``."""
    name = tokenizer_class or ""
    return TABLE.get(name) or TABLE.get(name.removesuffix("Fast")) or TokenizerFacts()
