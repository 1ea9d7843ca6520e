"""GGUF models: metadata as the configuration of a family that is known already, and one set of names for all.

llama.cpp's converter writes every family under the same names, q, k and v apart or fused one after the other, so one
tuple of rules serves. What it changes besides is undone here: rows of q and k in pairs (Llama and its kin), 1 added to
Gemma's norms. Sources: ``gguf-py/gguf/constants.py`` for keys and names, ``src/llama-model.cpp`` for what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from penstock.errors import CheckpointError, UnsupportedError, nearest
from penstock.models.architecture import Architecture, Block, Norm
from penstock.models.family import Config, Family
from penstock.models.gguf_facts import KINDS, Kind
from penstock.models.gguf_meta import Meta, TensorOf
from penstock.models.rules import Permute, Rule, Transform, ignore, rename, split, stack

KEY = "gguf"
"""The key of a configuration made here; its value names llama.cpp's architecture."""

OTHERS = {
    "adapter": "an adapter (a LoRA in llama.cpp's form; penstock reads PEFT's)",
    "mmproj": "what sees pictures (mmproj)", "imatrix": "statistics of activations (imatrix)",
}  # fmt: skip
"""``general.type`` of files that are no models."""

Shapes = Mapping[str, tuple[int, ...]]


def config(metadata: Mapping[str, Any], shapes: Shapes, tensor: TensorOf) -> dict[str, Any]:
    """The configuration that ``metadata`` and the tensors amount to, in the form of the family's ``config.json``.

    ``shapes`` outermost first; ``tensor`` reads a vector. Raises ``UnsupportedError`` for an unknown architecture,
    ``CheckpointError`` for metadata that is missing or no sense.
    """
    name = metadata.get("general.architecture")
    if (other := OTHERS.get(str(metadata.get("general.type", "")).lower())) or name == "clip":
        raise UnsupportedError(f"the file holds {other or OTHERS['mmproj']}, not a model: give the model's own file")
    if not isinstance(name, str):
        raise CheckpointError("the metadata has no general.architecture")
    if not shapes:
        raise CheckpointError("the file holds no weights, only metadata (a vocabulary?); download the model itself")
    kind = KINDS.get(name)
    if kind is None:
        raise UnsupportedError(
            f"architecture '{name[:60]}' is not supported{nearest(name, KINDS)}; known: {', '.join(KINDS)}"
        )
    facts = kind.facts(Meta(name, metadata, shapes, tensor))
    made = {key: value for key, value in facts.items() if value is not None}
    for key in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int):
            made[f"{key}_token_id"] = token
    turn = metadata.get("tokenizer.ggml.eot_token_id")
    if isinstance(turn, int) and turn != made.get("eos_token_id"):  # ends an answer as well
        made["eos_token_id"] = [made["eos_token_id"], turn] if "eos_token_id" in made else turn
    return {**made, KEY: name}


def family_of(config: Config, known: Callable[[Config], Family]) -> Family:
    """The family that ``config`` (of :func:`config`) is in, under GGUF's names."""
    kind = KINDS[config[KEY]]
    inner = known({key: value for key, value in config.items() if key != KEY})

    def architecture(given: Config) -> Architecture:
        made = inner.architecture({key: value for key, value in given.items() if key != KEY})
        return _without_plus_one(made) if kind.one_added else made

    return replace(inner, architecture=architecture, rules=lambda arch, given: rules(kind, arch))


def original_rules(config: Config, arch: Architecture, known: Callable[[Config], Family]) -> tuple[Rule, ...]:
    """The names that the weights of ``arch`` have where adapters for it are trained: for a GGUF file, those of all
    checkpoints that it may have been made of."""
    plain = {key: value for key, value in config.items() if key != KEY}
    others = KINDS[config[KEY]].others if KEY in config else ()
    configs = [plain, *({**plain, "model_type": other} for other in others)]
    return tuple(rule for one in configs for rule in known(one).rules(arch, one))


def _without_plus_one(arch: Architecture) -> Architecture:
    def plain(norm: Norm | None) -> Norm | None:
        return norm and replace(norm, plus_one=False)

    def block(b: Block) -> Block:
        return replace(b, norm=replace(b.norm, plus_one=False), attention=replace(
            b.attention, qk_norm=plain(b.attention.qk_norm)))  # fmt: skip

    return replace(arch, blocks=tuple(block(b) for b in arch.blocks), final_norm=plain(arch.final_norm))


def rules(kind: Kind, arch: Architecture) -> tuple[Rule, ...]:
    """Where each weight is in a GGUF file."""
    at, to = "blk.{i}", "layers.{i}"
    attention = arch.blocks[0].attention

    def halves(heads: int) -> tuple[Transform, ...]:
        return (Permute(heads, "halves"),) if kind.pairs else ()

    up = (
        split(f"{at}.ffn_up.weight", (f"{to}.mlp.gate.weight", f"{to}.mlp.up.weight"))
        if kind.fused_up
        else rename(f"{at}.ffn_{{x:gate|up}}.{{p:weight|bias}}", f"{to}.mlp.{{x}}.{{p}}")
    )
    return (
        rename("token_embd.weight", "embed.weight"),
        rename("position_embd.weight", "positions.weight"),
        rename("token_embd_norm.{p:weight|bias}", "embed_norm.{p}"),
        rename("output_norm.{p:weight|bias}", "final_norm.{p}"),
        rename("output.weight", "head.weight", tied_to="embed.weight"),
        rename("output.bias", "head.bias"),
        rename(f"{at}.attn_norm.{{p:weight|bias}}", f"{to}.attn_norm.{{p}}"),
        split(
            f"{at}.attn_qkv.{{p:weight|bias}}",
            (f"{to}.attn.q.{{p}}", f"{to}.attn.k.{{p}}", f"{to}.attn.v.{{p}}"),
        ),
        rename(f"{at}.attn_q.{{p:weight|bias}}", f"{to}.attn.q.{{p}}", *halves(attention.heads)),
        rename(f"{at}.attn_k.{{p:weight|bias}}", f"{to}.attn.k.{{p}}", *halves(attention.kv_heads)),
        rename(f"{at}.attn_v.{{p:weight|bias}}", f"{to}.attn.v.{{p}}"),
        rename(f"{at}.attn_output.{{p:weight|bias}}", f"{to}.attn.o.{{p}}"),
        rename(f"{at}.attn_{{x:q|k}}_norm.weight", f"{to}.attn.{{x}}_norm.weight"),
        rename(f"{at}.post_attention_norm.weight", f"{to}.attn_post_norm.weight"),
        rename(f"{at}.ffn_norm.{{p:weight|bias}}", f"{to}.mlp_norm.{{p}}"),
        rename(f"{at}.post_ffw_norm.weight", f"{to}.mlp_post_norm.weight"),
        up,
        rename(f"{at}.ffn_down.{{p:weight|bias}}", f"{to}.mlp.down.{{p}}"),
        rename(f"{at}.ffn_gate_inp.weight", f"{to}.moe.router.weight"),
        rename(f"{at}.ffn_{{x:gate|up|down}}_exps.weight", f"{to}.moe.{{x}}.weight"),
        stack(f"{at}.ffn_{{x:gate|up|down}}.{{e}}.weight", f"{to}.moe.{{x}}.weight", "e"),  # files of before 2024-04
        rename(f"{at}.ffn_{{x:gate|up|down}}_shexp.weight", f"{to}.moe.shared.{{x}}.weight"),
        rename(f"{at}.ffn_gate_inp_shexp.weight", f"{to}.moe.shared_gate.weight"),
        ignore("rope_freqs.weight"),
        ignore("rope_factors_{x:long|short}.weight"),
        ignore("blk.{i}.attn_rot_embd"),
    )
