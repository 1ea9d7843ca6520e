"""LoRA in PEFT's form: ``W' = W + scale * B A`` for each module named. Hu et al. 2021, arXiv 2106.09685.

Which modules are adapted, and with which rank, is what the tensors say; the configuration gives the scale, and the
options that change what the tensors mean. Those that penstock has no meaning for are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.checkpoints.adapters import floats
from penstock.checkpoints.lora_parameters import PARAMETERS, STACKS, of_each_expert, parameter_of, turns
from penstock.checkpoints.source import WeightSource, shown, some
from penstock.errors import CheckpointError, UnsupportedError, nearest
from penstock.types import F32

WRAPPER = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?")
SAVED = re.compile(r"(?P<module>.+?)(?:\.modules_to_save(?:\.default)?)?\.(?P<part>weight|bias)")
READ = frozenset({
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora", "modules_to_save", "peft_type",
    "target_parameters",
})  # fmt: skip
HARMLESS = frozenset({
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out",
    "task_type", "inference_mode", "peft_version", "base_model_name_or_path", "revision", "auto_mapping",
    "megatron_core", "qalora_group_size", "ensure_weight_tying", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "runtime_config",
})  # fmt: skip
"""Keys that say how the tensors came about, which the tensors themselves tell, or nothing about inference."""
RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that also changed the base model, which is then not the one that is published."""
MAX_KEY = 200
MAX_QUANTIFIERS = 3


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One linear: A [r, k], B [n, r]; ``magnitude`` [n] where it is a DoRA. ``experts``: how many the layer must have,
    where it is one of an expert whose file has all of them; else 0."""

    a: F32
    b: F32
    scale: float
    magnitude: F32 | None = None
    experts: int = 0


@dataclass(frozen=True, slots=True)
class LoraFile:
    """Modules by name (without PEFT's wrapper). ``saved``: tensors that replace the base's, by the base's names."""

    modules: Mapping[str, LoraModule]
    saved: Mapping[str, str] = field(default_factory=dict)


def read_lora(source: WeightSource, config: Mapping[str, Any], folder: Path, max_rank: int) -> LoraFile:
    """Check the configuration, then read every factor; nothing is read whose shape does not fit."""
    _check_config(config, folder)
    parts, saved = _sorted_names(source, config, folder)
    modules: dict[str, LoraModule] = {}
    for module, names in parts.items():
        owner, parameter = parameter_of(module, config.get("target_parameters") or ())
        named = f"{owner}.{parameter}" if parameter else module  # what patterns are about
        declared = _matched(config.get("rank_pattern"), named, config.get("r"), "rank_pattern", folder)
        rows = _rows(source, module, names, folder)
        rank = int(declared) if parameter in STACKS else rows
        if rank != declared or rank < 1:
            raise CheckpointError(f"{folder}: {shown(module)} has rank {rows}, but adapter_config.json says {declared}")
        if rank > max_rank:
            raise UnsupportedError(
                f"{folder}: {shown(module)} has rank {rank}, more than max_lora_rank={max_rank}: raise max_lora_rank"
            )
        alpha = _matched(config.get("alpha_pattern"), named, config.get("lora_alpha"), "alpha_pattern", folder)
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        found = _module(source, module, names, scale, folder)
        if parameter not in STACKS:
            each = {owner: found}
        elif found.magnitude is None:
            turned = turns(config.get("peft_version"))
            pairs = of_each_expert(owner, parameter, found.a, found.b, rank, turned)
            each = {name: LoraModule(a, b, scale, experts=rows // rank) for name, (a, b) in pairs.items()}
        else:
            raise UnsupportedError(f"{folder}: {shown(module)}: DoRA of parameters is not supported")
        if not modules.keys().isdisjoint(each):
            raise CheckpointError(f"{folder}: the factors of {shown(owner)} come twice")
        modules |= each
    return LoraFile(modules, saved)


def _module(source: WeightSource, module: str, names: Mapping[str, str], scale: float, folder: Path) -> LoraModule:
    a, b = floats(source, names["lora_A"]), floats(source, names["lora_B"])
    magnitude = None
    if "lora_magnitude_vector" in names:
        magnitude = floats(source, names["lora_magnitude_vector"]).reshape(-1)
        if magnitude.shape != (b.shape[0],):
            raise CheckpointError(f"{folder}: the magnitudes of {shown(module)} are not one for each output")
    return LoraModule(a, b, scale, magnitude)


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    def refuse(key: str, remedy: str) -> UnsupportedError:
        value = shown(str(config.get(key)), 60)
        return UnsupportedError(f"{folder}/adapter_config.json: {key}={value} is not supported; {remedy}")

    if config.get("bias", "none") not in ("none", None):
        raise refuse("bias", "train the adapter with bias='none', or merge it into its base with PEFT")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(RESIDUAL):
        raise refuse("init_lora_weights", "convert it to plain LoRA (PEFT: path_initial_model_for_weight_conversion)")
    known = READ | HARMLESS | {"bias", "init_lora_weights"}
    for key, value in config.items():
        if key not in known and value and value != "none":
            near = nearest(key, known)
            raise refuse(shown(str(key), 40), f"it may change the result{near}; merge the adapter with PEFT")
    targets = config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"{folder}/adapter_config.json: target_parameters must be a list of names")
    if any(target.rpartition(".")[2] not in PARAMETERS for target in targets):
        raise refuse("target_parameters", f"known are those of linears and experts: {', '.join(PARAMETERS)}")
    for key, low in (("r", 1), ("lora_alpha", None)):
        value = config.get(key)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or (low is not None and (value < low or value != int(value))):  # type: ignore[operator,arg-type]
            raise CheckpointError(f"{folder}/adapter_config.json: {key} must be a number, got {shown(repr(value), 40)}")


def _sorted_names(
    source: WeightSource, config: Mapping[str, Any], folder: Path
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Factors by module and part, and the tensors of ``modules_to_save`` by the base's names."""
    parts: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    wanted = config.get("modules_to_save") or []
    unknown: list[str] = []
    for name in source.names():
        bare = name.removeprefix(WRAPPER)
        factor, whole = FACTOR.fullmatch(bare), SAVED.fullmatch(bare)
        if factor is not None:
            parts.setdefault(factor["module"], {})[factor["part"]] = name
        elif whole is not None and any(_ends(whole["module"], str(w)) for w in wanted):
            saved[f"{whole['module']}.{whole['part']}"] = name
        else:
            unknown.append(name)
    if unknown:
        what = "LoRA of embeddings is" if any("lora_embedding" in name for name in unknown) else "these tensors are"
        raise UnsupportedError(f"{folder}: {what} not supported: {some(unknown, 6)}")
    for module, names in parts.items():
        for part in ("lora_A", "lora_B"):
            if part not in names:
                raise CheckpointError(f"{folder}: {shown(module)} has no {part}; the file is incomplete")
        if bool(config.get("use_dora")) != ("lora_magnitude_vector" in names):
            raise CheckpointError(f"{folder}: use_dora and the tensors of {shown(module)} do not agree")
    if not parts and not saved:
        raise CheckpointError(f"{folder}: no tensors of an adapter in the file; it is incomplete")
    return parts, saved


def _rows(source: WeightSource, module: str, names: Mapping[str, str], folder: Path) -> int:
    """The rows of A, which are the columns of B."""
    a, b = source.info(names["lora_A"]).shape, source.info(names["lora_B"]).shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
        raise CheckpointError(f"{folder}: the factors {list(a)} and {list(b)} of {shown(module)} do not fit together")
    return a[0]


def _matched(patterns: Any, module: str, default: Any, key: str, folder: Path) -> Any:
    """The value of the first pattern that fits the end of the module's name, as PEFT matches them."""
    if patterns is None:
        return default
    if not isinstance(patterns, Mapping):
        raise CheckpointError(f"{folder}/adapter_config.json: {key} must be an object")
    for pattern, value in patterns.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"{folder}/adapter_config.json: {key} must hold numbers")
        if _fits(pattern, module, folder):
            return value
    return default


def _fits(pattern: str, module: str, folder: Path) -> bool:
    if re.fullmatch(r"[\w.]+", pattern):
        return _ends(module, pattern)
    # a stranger's expression: few and plain repetitions, so that no name takes long
    if (
        len(pattern) > MAX_KEY
        or len(re.findall(r"[*+?{]", pattern)) > MAX_QUANTIFIERS
        or re.search(r"\)[*+{]", pattern)
    ):
        raise UnsupportedError(f"{folder}/adapter_config.json: the pattern {shown(pattern, 60)!r} is too involved")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise CheckpointError(f"{folder}/adapter_config.json: the pattern {shown(pattern, 60)!r}: {error}") from error


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
