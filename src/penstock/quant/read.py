"""``quantization_config`` of each method, read: what it says, or by name what penstock cannot do of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from penstock.errors import UnsupportedError
from penstock.quant.awq import AwqScheme
from penstock.quant.coded import CodedScheme
from penstock.quant.gptq import GptqScheme
from penstock.quant.packed import PackedScheme
from penstock.quant.scheme import Scheme

Config = Mapping[str, Any]
WHERE = "config.json: quantization_config"
MAX_PATTERN = 300
MAX_REPEATS = 6


@dataclass(frozen=True, slots=True)
class Stored:
    """How modules are stored: the scheme of one, and whether it is said to be left out.

    ``telling`` are the tensors whose presence says that a module is quantised.
    """

    scheme: Callable[[str], Scheme]
    left_out: Callable[[str], bool]
    telling: tuple[str, ...] = ()


def refuse(what: str) -> UnsupportedError:
    return UnsupportedError(f"{WHERE}: {what}; use a checkpoint without it")


def whole(config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 24:
        raise UnsupportedError(f"{WHERE}: {key} must be a whole number, found {str(value)[:60]!r}")
    return value


def names(config: Config, *keys: str) -> Callable[[str], bool]:
    """Whether a module is in one of these lists: by name, by the end or a piece of its name, or by ``re:``."""
    listed: list[str] = []
    for key in keys:
        given = config.get(key) or []
        if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(n, str) for n in given):
            raise UnsupportedError(f"{WHERE}: {key} must list names, found {str(given)[:60]!r}")
        listed += given
    return lambda module: any(matches(name, module) for name in listed)


def matches(name: str, module: str) -> bool:
    if name.startswith("re:"):
        return expression(name[3:]).match(module) is not None
    return module == name or f".{name}." in f".{module}."


@lru_cache(maxsize=1024)
def expression(text: str) -> re.Pattern[str]:
    """A regular expression out of a file. One that could take for ever on a short name is refused."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > MAX_PATTERN or repeats > MAX_REPEATS or re.search(r"(?<!\\)\)\s*[*+{]", text):
        raise refuse(f"the pattern {text[:80]!r} is more than a pattern of names needs")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise refuse(f"the pattern {text[:80]!r} is no regular expression ({error})") from error


# ------------------------------------------------------------------------------------------------- one method each


def awq(config: Config) -> Stored:
    bits, version = whole(config, "bits", whole(config, "w_bit", 4)), str(config.get("version", "gemm")).lower()
    if bits != 4:
        raise refuse(f"AWQ of {bits} bits is not supported, only 4")
    if version not in ("gemm", "exllama", "ipex"):  # the last two are other kernels for the same layout
        raise refuse(f"the AWQ layout '{version[:40]}' is not supported, only gemm")
    scheme = AwqScheme(whole(config, "group_size", whole(config, "q_group_size", 128)))
    return Stored(lambda module: scheme, names(config, "modules_to_not_convert"), ("qweight",))


GPTQ_KNOWN = {"bits", "group_size", "sym", "desc_act"}
GPTQ_SOLVER = {"mse", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "act_group_aware"}
"""How codes were found, which does not change what they mean."""


def gptq(config: Config) -> Stored:
    form = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    if config.get("is_marlin_format") or form not in ("gptq", "gptq_v2"):
        raise refuse(f"the GPTQ layout '{'marlin' if form == 'gptq' else form[:40]}' is not supported, only gptq(_v2)")
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise refuse("dynamic must be an object of patterns")
    rules: list[tuple[re.Pattern[str], bool, Config]] = []
    for text, changes in dynamic.items():
        changes = changes or {}
        if not isinstance(changes, Mapping) or not changes.keys() <= GPTQ_KNOWN | GPTQ_SOLVER:
            unknown = sorted(set(changes) - GPTQ_KNOWN - GPTQ_SOLVER) if isinstance(changes, Mapping) else changes
            raise refuse(f"the rule dynamic['{str(text)[:60]}'] has unknown parts: {str(unknown)[:80]}")
        rules.append((expression(re.sub(r"^[+-]:", "", str(text))), str(text).startswith("-:"), changes))

    def rule(module: str) -> tuple[bool, Config]:
        for pattern, out, changes in rules:
            if pattern.match(module):
                return out, changes
        return False, {}

    def scheme(module: str) -> Scheme:
        return _gptq({**config, **rule(module)[1]}, form == "gptq_v2")

    _gptq(config, form == "gptq_v2")  # refused now rather than at the first weight
    listed = names(config, "modules_to_not_convert")
    return Stored(scheme, lambda module: rule(module)[0] or listed(module), ("qweight",))


def _gptq(config: Config, v2: bool) -> GptqScheme:
    bits = whole(config, "bits", 4)
    if bits not in (4, 8):
        raise refuse(f"GPTQ of {bits} bits is not supported, only 4 and 8")
    return GptqScheme(bits, whole(config, "group_size", 128), bool(config.get("sym", True)), v2)


def auto_round(config: Config) -> Stored:
    """AutoRound's: the layout of GPTQ or of AWQ, and modules that are stored otherwise (``extra_config``)."""
    layout = str(config.get("packing_format") or "auto_round:auto_gptq").lower().removeprefix("auto_round:")
    if layout not in ("auto_gptq", "auto_awq"):
        raise refuse(f"the AutoRound layout '{layout[:40]}' is not supported, only auto_gptq and auto_awq")
    extra = config.get("extra_config") or {}
    if not isinstance(extra, Mapping) or not all(isinstance(said, Mapping) for said in extra.values()):
        raise refuse("extra_config must be an object of modules")
    patterns = [(expression(str(name)), said) for name, said in extra.items() if set(str(name)) & set("*+?^$|()[]{}\\")]

    def said_of(module: str) -> Config:
        found: Config = extra.get(module) or next((said for text, said in patterns if text.search(module)), {})
        return {**config, **found}

    def scheme(module: str) -> Scheme:
        said = said_of(module)
        if str(said.get("data_type") or "int") != "int" or whole(said, "act_bits", 16) < 16:
            raise refuse("of AutoRound's numbers only whole ones are supported, with inputs of 16 bits")
        if layout == "auto_gptq":
            return _gptq(said, v2=False)
        return awq({"bits": whole(said, "bits", 4), "group_size": whole(said, "group_size", 128)}).scheme(module)

    scheme("")  # refused now rather than at the first weight
    return Stored(scheme, lambda module: whole(said_of(module), "bits", 4) >= 16, ("qweight",))


def modelopt(config: Config) -> Stored:
    """NVIDIA's ModelOpt: fp8 with a scale for the tensor or one a row; its own file keeps this one level lower."""
    said = config.get("quantization", config)
    if not isinstance(said, Mapping):
        raise refuse("quantization must be an object")
    algorithm = str(said.get("quant_algo") or "").upper()
    if algorithm not in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        raise refuse(f"ModelOpt's '{algorithm[:40]}' is not supported, only FP8 and FP8_PER_CHANNEL_PER_TOKEN")
    scheme = CodedScheme("modelopt", act="fp8")
    return Stored(lambda module: scheme, names(said, "exclude_modules", "ignore"))


def fp8(config: Config) -> Stored:
    kind, block = str(config.get("fmt") or "e4m3").lower(), config.get("weight_block_size")
    if kind not in ("e4m3", "float8_e4m3fn"):
        raise refuse(f"float8 numbers of the kind '{kind[:40]}' are not supported, only e4m3")
    if block is not None:
        block = _block(block)
        scheme = CodedScheme("fp8", "weight_scale_inv", block=block, act="fp8")
    else:
        scheme = CodedScheme("fp8", act="fp8")
    return Stored(lambda module: scheme, names(config, "modules_to_not_convert", "ignored_layers"))


def _block(block: Any) -> tuple[int, int]:
    if not isinstance(block, Sequence) or len(block) != 2 or not all(type(b) is int and 0 < b < 1 << 20 for b in block):
        raise refuse(f"blocks of {str(block)[:60]!r} are not two sizes")
    return int(block[0]), int(block[1])


def fbgemm_fp8(config: Config) -> Stored:
    scheme = CodedScheme("fbgemm_fp8", act="fp8")
    return Stored(lambda module: scheme, names(config, "modules_to_not_convert"))


def smoothquant(config: Config) -> Stored:
    """int8 or float8 ``weight`` with ``weight_scale`` (SGLang's w8a8) or ``scale`` (LMDeploy's smooth_quant)."""
    named = str(config.get("quant_method")).lower()
    scale = "scale" if named == "smooth_quant" else "weight_scale"
    act = "fp8" if "fp8" in named or "float8" in str(config.get("quant_dtype", "")) else "int8"
    scheme = CodedScheme("smoothquant", scale, act=act)
    return Stored(lambda module: scheme, names(config, "modules_to_not_convert", "ignore"))


# --------------------------------------------------------------------------------------------------- compressed-tensors

CT_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "dense", "mixed-precision")


def compressed_tensors(config: Config) -> Stored:
    sparsity, transforms = config.get("sparsity_config") or {}, config.get("transform_config") or {}
    if not isinstance(sparsity, Mapping) or not isinstance(transforms, Mapping):
        raise refuse("sparsity_config and transform_config must be objects")
    if sparsity and sparsity.get("format", "dense") != "dense":
        raise refuse(f"the sparse form '{str(sparsity.get('format'))[:40]}' is not supported")
    if transforms and transforms.get("config_groups"):
        raise refuse("transforms of the inputs (transform_config) are not supported")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups or not all(isinstance(g, Mapping) for g in groups.values()):
        raise refuse("config_groups must be an object of groups")
    made = [(_targets(group), _ct_scheme(group, config)) for group in groups.values()]

    def scheme(module: str) -> Scheme:
        named = [s for targets, s in made if any(matches(t, module) for t in targets)]
        return (named or [s for targets, s in made if "Linear" in targets] or [made[0][1]])[0]

    return Stored(scheme, names(config, "ignore"), ("weight_packed",))


def _targets(group: Config) -> list[str]:
    targets = group.get("targets") or []
    return [str(target) for target in targets] if isinstance(targets, Sequence) else []


def _ct_scheme(group: Config, config: Config) -> Scheme:
    form = str(group.get("format") or config.get("format") or "naive-quantized")
    weights = group.get("weights")
    if form not in CT_FORMATS:
        raise refuse(f"the form '{form[:40]}' is not supported, only {', '.join(CT_FORMATS)}")
    if not isinstance(weights, Mapping):
        raise refuse("a group of config_groups says nothing of weights")
    bits, kind, strategy = whole(weights, "num_bits", 8), weights.get("type", "int"), weights.get("strategy", "channel")
    widths = (4, 8) if kind == "int" else (8,)  # of four bits and not packed: a byte each
    if kind not in ("int", "float") or bits not in widths:
        raise refuse(f"weights of {bits} bits ({str(kind)[:20]}) in the form {form} are not supported")
    if strategy not in ("tensor", "channel", "group", "block"):
        raise refuse(f"scales by '{str(strategy)[:40]}' are not supported")
    size = whole(weights, "group_size", -1) if strategy == "group" else None
    act = _ct_act(group.get("input_activations"))
    if form == "pack-quantized":
        return PackedScheme(bits, bool(weights.get("symmetric", True)), size, act)
    block = _block(weights.get("block_structure")) if strategy == "block" else None
    return CodedScheme(form, block=block, group=size, act=act)


def _ct_act(inputs: Any) -> str:
    if not isinstance(inputs, Mapping):
        return ""
    if inputs.get("num_bits") != 8:
        raise refuse(f"inputs of {str(inputs.get('num_bits'))[:8]} bits are not supported, only 8")
    return "fp8" if inputs.get("type") == "float" else "int8"
