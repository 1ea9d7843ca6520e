"""Rotary facts from a configuration: ``rope_theta`` + ``rope_scaling`` (old), ``rope_parameters`` (transformers 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from penstock.errors import CheckpointError
from penstock.models.architecture import RopeScaling
from penstock.models.reading import MAX_CONTEXT, Reader

Kind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
KINDS: dict[str, Kind] = {
    "default": "default", "linear": "linear", "dynamic": "dynamic", "yarn": "yarn", "llama3": "llama3",
    "longrope": "longrope", "su": "longrope",
}  # fmt: skip
MIN_THETA = 1.001
KNOWN = (
    "factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor",
    "high_freq_factor", "short_factor", "long_factor", "original_max_position_embeddings", "finetuned", "short_mscale",
    "long_mscale",
)  # fmt: skip


def read_rope(
    r: Reader, head_dim: int, context: int, theta: float = 10000.0, partial: float = 1.0, layer_type: str = ""
) -> tuple[float, int, RopeScaling | None]:
    """Base, rotated elements of a head, and scaling. ``context`` is ``max_position_embeddings``.

    ``layer_type`` picks an entry where ``rope_parameters`` has one per type of layer.
    """
    theta = r.number("rope_theta", default=theta, low=MIN_THETA)
    partial = r.number("partial_rotary_factor", default=partial, high=1.0)
    top_original = r.get("original_max_position_embeddings")
    given = r.get("rope_parameters") or r.get("rope_scaling")
    r.read.update(("rope_parameters", "rope_scaling"))
    if given and layer_type and layer_type in given:
        given = given[layer_type]
    if not given:
        return theta, _even(int(head_dim * partial)), None
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{r.where}: rope_scaling must be an object, found {str(given)[:80]!r}")
    name = "rope_parameters" if r.config.get("rope_parameters") else "rope_scaling"
    s = Reader(given, r.where, f"{name}.")
    theta = s.number("rope_theta", default=theta, low=MIN_THETA)
    dim = _even(int(head_dim * s.number("partial_rotary_factor", default=partial, high=1.0)))
    kind = s.choice("rope_type", "type", table=KINDS, default="default")
    scaling = _scaling(s, kind, dim, context, top_original)
    s.read.update(KNOWN)  # what a kind does not use changes nothing
    r.refused += [*s.refused, *s.unread()]
    return theta, dim, scaling


def _scaling(s: Reader, kind: Kind, dim: int, context: int, top_original: Any) -> RopeScaling | None:
    if kind == "default":
        return None
    if kind == "dynamic":
        if dim < 4:
            raise CheckpointError(f"{s.where}: {s.prefix}rope_type dynamic needs heads of at least 4 rotary elements")
        return RopeScaling(kind, factor=s.number("factor", low=1e-3), original_length=context)
    if kind == "linear":
        return RopeScaling(kind, factor=s.number("factor", low=1e-3))
    original = s.whole("original_max_position_embeddings", default=context, low=2, high=MAX_CONTEXT)
    if top_original is not None:
        original = Reader({"original_max_position_embeddings": top_original}).whole(
            "original_max_position_embeddings", low=2, high=MAX_CONTEXT
        )
    if kind == "llama3":
        low, high = (
            s.number("low_freq_factor", default=1.0, low=1e-6),
            s.number("high_freq_factor", default=4.0, low=1e-6),
        )
        if high <= low:
            raise CheckpointError(
                f"{s.where}: {s.prefix}high_freq_factor must be above low_freq_factor, found {high:g}"
            )
        return RopeScaling(
            kind,
            factor=s.number("factor", low=1e-3),
            original_length=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    factor = s.number("factor", default=context / original, low=1e-3)
    attention = s.get("attention_factor")
    attention = None if attention is None else s.number("attention_factor")
    if kind == "yarn":
        return RopeScaling(
            kind, factor=factor, original_length=original, attention_factor=attention,
            beta_fast=s.number("beta_fast", default=32.0) or 32.0, beta_slow=s.number("beta_slow", default=1.0) or 1.0,
            mscale=s.number("mscale", default=0.0) or None,
            mscale_all_dim=s.number("mscale_all_dim", default=0.0) or None, truncate=s.flag("truncate", default=True),
        )  # fmt: skip
    return RopeScaling(
        kind, factor=factor, original_length=original, attention_factor=attention,
        short_factor=_factors(s, "short_factor", dim), long_factor=_factors(s, "long_factor", dim),
    )  # fmt: skip


def _factors(s: Reader, name: str, dim: int) -> tuple[float, ...]:
    values = s.get(name)
    if not isinstance(values, list) or len(values) != dim // 2:
        found = f"{len(values)} entries" if isinstance(values, list) else repr(values)
        raise CheckpointError(f"{s.where}: {s.prefix}{name} must list {dim // 2} numbers, found {found}")
    return tuple(Reader({name: v}, s.where, s.prefix).number(name, low=1e-9) for v in values)


def _even(dim: int) -> int:
    if dim < 2 or dim % 2:
        raise CheckpointError(f"config.json: rotary embedding of {dim} elements of a head; it must be even and above 0")
    return dim
