"""Which format a checkpoint's weights are in: from its configuration, and what its files hold.

The configuration says how numbers are stored; the files say which weights are stored so. A weight whose quantised
tensors are there is quantised, one that is there as plain numbers is plain: so lists of modules that were left out
(``ignore``, ``modules_to_not_convert``) need no interpretation where both are present, and cannot be got wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from penstock.errors import ConfigError, UnsupportedError, nearest
from penstock.models.program import WeightSpec
from penstock.quant import read
from penstock.quant.blocks import BlockScheme
from penstock.quant.dense import DenseScheme
from penstock.quant.onthefly import Convert, converter
from penstock.quant.scheme import Scheme, SchemeFor

DENSE = DenseScheme()
PLAIN = ("float32", "float16", "bfloat16", "float64")

METHODS: dict[str, Callable[[Mapping[str, Any]], read.Stored]] = {
    "awq": read.awq,
    "gptq": read.gptq,
    "compressed-tensors": read.compressed_tensors,
    "fp8": read.fp8,
    "fbgemm_fp8": read.fbgemm_fp8,
    "smoothquant": read.smoothquant,
    "auto-round": read.auto_round,
    "modelopt": read.modelopt,
}
SYNONYMS = {
    "awq_marlin": "awq", "gptq_marlin": "gptq", "gptq_v2": "gptq", "marlin": "gptq", "compressed_tensors":
    "compressed-tensors", "smooth_quant": "smoothquant", "w8a8": "smoothquant", "w8a8_int8": "smoothquant",
    "w8a8_fp8": "smoothquant", "ptq": "smoothquant", "weight_only_int8": "int8", "weight_only_int4": "int4",
    "wint8": "int8", "wint4": "int4", "eetq": "int8", "auto_round": "auto-round", "intel/auto-round": "auto-round",
    "inc": "auto-round", "modelopt_fp8": "modelopt",
}  # fmt: skip
ON_THE_FLY = ("int8", "int4")


class TensorFacts(Protocol):
    """What is asked of a tensor before it is read."""

    @property
    def dtype(self) -> np.dtype[Any]: ...


class Source(Protocol):
    """Where the tensors are: names and facts, no data."""

    def names(self) -> list[str]: ...

    def info(self, name: str) -> Any: ...


@runtime_checkable
class BlockSource(Protocol):
    """A source whose tensors say their own format (GGUF)."""

    def names(self) -> list[str]: ...

    def block_type(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Quantisation:
    """``method`` for the table at start; ``scheme_for`` for `stream_weights`; ``convert`` for weights made smaller."""

    method: str
    scheme_for: SchemeFor
    convert: Convert | None = None


def schemes(settings: Mapping[str, Any], source: Source) -> SchemeFor:
    """The scheme of each weight of a checkpoint whose configuration is ``settings``."""
    return detect(settings, source).scheme_for


def detect(settings: Mapping[str, Any], source: Source, wish: str | None = None) -> Quantisation:
    """The checkpoint's format, and the one that ``wish`` (``quantization=``) makes of plain numbers at load: of all of
    them, or of those that a quantised checkpoint has beside the others (its output projection, modules left out).

    Raises ``ConfigError`` for a wish that contradicts the checkpoint, ``UnsupportedError`` for a format without a
    reader.
    """
    wanted = _wish(wish)
    stored = quantization_config(settings)
    method = "gguf" if isinstance(source, BlockSource) else method_of(stored)
    if method:
        if wanted not in ("", method, *ON_THE_FLY):
            raise ConfigError(
                f"quantization='{wish}': the checkpoint is quantised already ({method}); leave quantization out, "
                f"or say {' or '.join(ON_THE_FLY)} for what is plain in it"
            )
        found: SchemeFor = (
            _blocks_of(source) if isinstance(source, BlockSource) else SchemesOf(METHODS[method](stored), source)
        )
        if wanted in ON_THE_FLY:
            return Quantisation(f"{method}, {wanted}", found, converter(wanted))
        return Quantisation(method, found)
    if wanted and wanted not in ON_THE_FLY:
        raise ConfigError(
            f"quantization='{wish}': the checkpoint's weights are plain numbers, not {wanted}; "
            f"leave it out, or use {' or '.join(ON_THE_FLY)} to quantise them while they are read"
        )
    return Quantisation(wanted or "none", lambda name: DENSE, converter(wanted) if wanted else None)


def _blocks_of(source: BlockSource) -> SchemeFor:
    names = frozenset(source.names())
    return lambda name: BlockScheme(source.block_type(name) if name in names else "f32")


def quantization_config(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the configuration says of quantised weights, empty where it says nothing."""
    for holder in (settings, settings.get("text_config")):
        if not isinstance(holder, Mapping):
            continue
        for key in ("quantization_config", "compression_config"):
            stored = holder.get(key)
            if isinstance(stored, Mapping) and stored:
                return stored
            if stored:
                raise UnsupportedError(f"config.json: {key} must be an object, found {str(stored)[:60]!r}")
    return {}


def method_of(stored: Mapping[str, Any]) -> str:
    """The name of the format, "" for plain numbers. Raises ``UnsupportedError`` for one that is unknown."""
    if not stored:
        return ""
    given = stored.get("quant_method")
    if given is None and "config_groups" in stored:
        given = "compressed-tensors"
    if given is None and stored.get("bits") and "desc_act" in stored:
        given = "gptq"
    method = SYNONYMS.get(str(given).lower(), str(given).lower())
    if given is None:
        raise UnsupportedError(
            f"config.json: quantization_config has no quant_method; set it to one of {', '.join(METHODS)}"
        )
    if method not in METHODS:
        raise UnsupportedError(
            f"config.json: weights quantised by '{str(given)[:60]}' cannot be read{nearest(method, METHODS)}; "
            f"known are {', '.join(METHODS)} and GGUF files"
        )
    return method


def _wish(wish: str | None) -> str:
    wanted = (wish or "").lower()
    if wanted in ("", "auto", "none"):
        return ""
    known = SYNONYMS.get(wanted, wanted)
    if known not in (*METHODS, *ON_THE_FLY, "gguf"):
        names = [*METHODS, "gguf", *ON_THE_FLY, *SYNONYMS]
        raise ConfigError(f"quantization='{wish}' is unknown{nearest(wanted, names)}; known: {', '.join(names)}")
    return known


class SchemesOf:
    """`SchemeFor` of a checkpoint in which some weights are quantised."""

    def __init__(self, stored: read.Stored, source: Source) -> None:
        self.stored, self.source = stored, source
        self.names = frozenset(source.names())

    def __call__(self, name: str) -> Scheme:
        module = name.removesuffix(".weight") if name.endswith(".weight") else None
        if module is None:
            return DENSE
        if name in self.names and self.source.info(name).dtype.name in PLAIN:
            return DENSE
        absent = not any(f"{module}.{part}" in self.names for part in (*self.stored.telling, "weight"))
        if absent and self.stored.left_out(module):
            return DENSE
        scheme = self.stored.scheme(module)
        needed = scheme.parts(WeightSpec(name, (), "matrix"))
        if name in self.names and "weight" not in needed:
            return DENSE  # an odd type for a plain weight: told as such
        return scheme
