"""What GGUF metadata says of each architecture, in the words of the family's ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.architecture import Rope, RopeScaling
from penstock.models.rope import frequencies, inverse

TensorOf = Callable[[str], NDArray[np.float32]]
Facts = dict[str, Any]


class Meta:
    """Metadata of one architecture: `whole`, `number`, `flag` read keys that begin with its name."""

    def __init__(
        self, name: str, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], tensor: TensorOf
    ) -> None:
        self.name, self.metadata, self.shapes, self.tensor = name, metadata, shapes, tensor

    def has(self, tensor: str) -> bool:
        return tensor in self.shapes

    def value(self, key: str, default: Any = None) -> Any:
        """One value; a list of equal ones (by layer) counts as one."""
        value = self.metadata.get(f"{self.name}.{key}", default)
        if isinstance(value, np.ndarray):
            values = set(value.tolist())
            if len(values) != 1:
                raise UnsupportedError(f"{self.name}.{key} differs from layer to layer, which is not supported")
            value = values.pop()
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CheckpointError(f"{self.name}.{key} must be a whole number, found {str(value)[:60]!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A float32 as the shortest decimal that means it: 1e-06, not 9.99999997e-07."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{self.name}.{key} must be a number, found {str(value)[:60]!r}")
        return float(str(np.float32(value)))

    def flag(self, key: str, default: bool) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}.{key} must be true or false, found {str(value)[:60]!r}")
        return value

    def rows(self, tensor: str) -> int:
        """Output rows of ``tensor`` (of one expert, in a stack)."""
        shape = self.shapes.get(tensor)
        if shape is None or len(shape) < 2:
            raise CheckpointError(f"there is no tensor '{tensor}'; the file is incomplete")
        return shape[-2]

    # ---------------------------------------------------------------------------------------- what most families share

    @property
    def heads(self) -> int:
        heads = self.whole("attention.head_count")
        if heads < 1:
            raise CheckpointError(f"{self.name}.attention.head_count is 0")
        return heads

    @property
    def head_dim(self) -> int:
        hidden = self.whole("embedding_length")
        dim = self.whole("attention.key_length", hidden // self.heads)
        if self.whole("attention.value_length", dim) != dim:
            raise UnsupportedError(f"{self.name}: keys and values of different lengths are not supported")
        return dim

    def sizes(self) -> Facts:
        """Under transformers' usual names."""
        return {
            "vocab_size": self.rows("token_embd.weight"),
            "hidden_size": self.whole("embedding_length"),
            "num_hidden_layers": self.whole("block_count"),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.whole("attention.head_count_kv", self.heads),
            "head_dim": self.head_dim,
            "max_position_embeddings": self.whole("context_length"),
            "tie_word_embeddings": not self.has("output.weight"),
        }

    def ropes(self, theta: float = 10000.0) -> Facts:
        """Base, part of a head, scaling: by type, or by the factors that the file holds as tensors."""
        theta = self.number("rope.freq_base", theta)
        dim = self.whole("rope.dimension_count", self.head_dim)
        facts: Facts = {"rope_theta": theta, "rope_scaling": self._scaling(theta, dim)}
        if (facts["rope_scaling"] or {}).get("rope_type") == "longrope":  # where Phi-3 has it
            facts["original_max_position_embeddings"] = facts["rope_scaling"]["original_max_position_embeddings"]
        if dim != self.head_dim:
            facts["partial_rotary_factor"] = dim / self.head_dim
        return facts

    def _scaling(self, theta: float, dim: int) -> Facts | None:
        original = self.whole("rope.scaling.original_context_length", 0) or None
        if self.has("rope_factors_long.weight") and self.has("rope_factors_short.weight"):
            facts: Facts = {"rope_type": "longrope", "original_max_position_embeddings": original}
            for which in ("long", "short"):
                facts[f"{which}_factor"] = self._factors(f"rope_factors_{which}.weight")
            if self.value("rope.scaling.attn_factor") is not None:
                facts["attention_factor"] = self.number("rope.scaling.attn_factor")
            return facts
        if self.has("rope_freqs.weight"):
            return self._llama3(self._factors("rope_freqs.weight"), theta, dim)
        kind = self.value("rope.scaling.type", "none")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 0.0)) or None
        if kind == "none" and self.value("rope.scale_linear") is not None:
            kind = "linear"
        if kind == "none" or factor is None:
            return None
        if kind == "linear":
            return {"rope_type": "linear", "factor": factor}
        if kind == "yarn":
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        raise UnsupportedError(f"{self.name}.rope.scaling.type '{str(kind)[:40]}' is not supported")

    def _factors(self, tensor: str) -> list[float]:
        return [float(x) for x in self.tensor(tensor)]

    def _llama3(self, factors: list[float], theta: float, dim: int) -> Facts:
        """Llama 3's factors as the rule that made them; any others as they are."""
        for factor in (8.0, 32.0, 16.0, 4.0):
            scaling = RopeScaling("llama3", factor=factor, original_length=8192)
            rule = np.asarray(frequencies(Rope(dim, theta, scaling=scaling)).inv_freq) * np.asarray(factors[: dim // 2])
            if len(factors) == dim // 2 and np.allclose(rule, inverse(theta, dim), rtol=1e-5):
                return {
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }  # fmt: skip
        return {
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
            "original_max_position_embeddings": self.whole("context_length"), "factor": 1.0,
        }  # fmt: skip

    @property
    def rms(self) -> float:
        return self.number("attention.layer_norm_rms_epsilon")

    @property
    def layer_norm(self) -> float:
        return self.number("attention.layer_norm_epsilon")


def _llama(m: Meta) -> Facts:
    facts = {"model_type": "llama", **m.sizes(), **m.ropes(), "rms_norm_eps": m.rms, "hidden_act": "silu"}
    facts["intermediate_size"] = m.whole("feed_forward_length")
    experts = m.whole("expert_count", 0)
    if experts:
        return {
            **facts, "model_type": "mixtral", "num_local_experts": experts,
            "num_experts_per_tok": m.whole("expert_used_count"), "sliding_window": None,
        }  # fmt: skip
    return {
        **facts,
        "attention_bias": m.has("blk.0.attn_q.bias"),
        "mlp_bias": m.has("blk.0.ffn_up.bias"),
    }


def _qwen2(m: Meta) -> Facts:
    return {
        **m.sizes(), **m.ropes(1e6), "model_type": m.name, "rms_norm_eps": m.rms, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"), "use_sliding_window": False,
    }  # fmt: skip


def _qwen_moe(m: Meta) -> Facts:
    facts = _qwen2(m) | {
        "model_type": "qwen2_moe" if m.name == "qwen2moe" else "qwen3_moe",
        "num_experts": m.whole("expert_count"),
        "num_experts_per_tok": m.whole("expert_used_count"),
        "moe_intermediate_size": _expert_width(m),
        "norm_topk_prob": m.name == "qwen3moe",
        "decoder_sparse_step": 1,
    }
    if m.name == "qwen2moe":
        facts["shared_expert_intermediate_size"] = m.rows("blk.0.ffn_up_shexp.weight")
    return facts


def _expert_width(m: Meta) -> int:
    return m.rows("blk.0.ffn_up_exps.weight" if m.has("blk.0.ffn_up_exps.weight") else "blk.0.ffn_up.0.weight")


def _gemma(m: Meta) -> Facts:
    facts = {
        **m.sizes(), **m.ropes(), "model_type": {"gemma3": "gemma3_text"}.get(m.name, m.name), "rms_norm_eps": m.rms,
        "intermediate_size": m.whole("feed_forward_length"), "hidden_activation": "gelu_pytorch_tanh",
    }  # fmt: skip
    if m.name == "gemma":
        return facts
    # The largest of each kind scales queries by the width of the model rather than of a head; the file does not say.
    largest = m.whole("block_count") == {"gemma2": 46, "gemma3": 62}[m.name]
    scalar = m.whole("embedding_length") // m.heads if largest else m.head_dim
    facts |= {"query_pre_attn_scalar": scalar, "sliding_window": m.whole("attention.sliding_window", 4096)}
    if m.name == "gemma2":
        facts["attn_logit_softcapping"] = m.number("attn_logit_softcapping", 50.0)
        facts["final_logit_softcapping"] = m.number("final_logit_softcapping", 30.0)
    else:
        facts["rope_theta"] = m.number("rope.freq_base", 1e6)
        facts["sliding_window_pattern"] = 6
    return facts


def _phi3(m: Meta) -> Facts:
    return {
        "model_type": "phi3", **m.sizes(), **m.ropes(), "rms_norm_eps": m.rms, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"),
        "sliding_window": m.whole("attention.sliding_window", 0) or None,
    }  # fmt: skip


def _gpt2(m: Meta) -> Facts:
    return {
        "model_type": "gpt2", "vocab_size": m.rows("token_embd.weight"), "n_embd": m.whole("embedding_length"),
        "n_head": m.heads, "n_layer": m.whole("block_count"), "n_positions": m.whole("context_length"),
        "n_inner": m.rows("blk.0.ffn_up.weight"), "layer_norm_epsilon": m.layer_norm,
        "tie_word_embeddings": not m.has("output.weight"),
    }  # fmt: skip


def _bloom(m: Meta) -> Facts:
    return {
        "model_type": "bloom", "vocab_size": m.rows("token_embd.weight"), "hidden_size": m.whole("embedding_length"),
        "n_head": m.heads, "n_layer": m.whole("block_count"), "seq_length": m.whole("context_length"),
        "n_inner": m.rows("blk.0.ffn_up.weight"), "layer_norm_epsilon": m.layer_norm,
        "tie_word_embeddings": not m.has("output.weight"),
    }  # fmt: skip


def _baichuan(m: Meta) -> Facts:
    """ALiBi is what the models of 40 layers (13B) have, and only they; the file does not say.

    Version 2 divides the rows of its head by their lengths: files are made with that done, as llama.cpp knows nothing
    of it.
    """
    facts = {
        **m.sizes(), "model_type": "baichuan", "rms_norm_eps": m.rms, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"), "model_max_length": m.whole("context_length"),
    }  # fmt: skip
    if m.whole("block_count") == 40:
        return {**facts, "max_position_embeddings": None}
    return {**facts, **m.ropes()}


def _chatglm(m: Meta) -> Facts:
    """ChatGLM 2 and 3 and GLM-4-9B: rotary on half of a head."""
    heads, groups = m.heads, m.whole("attention.head_count_kv", m.heads)
    fused = m.shapes.get("blk.0.attn_qkv.weight")
    dim = fused[-2] // (heads + 2 * groups) if fused else m.rows("blk.0.attn_q.weight") // heads
    return {
        "model_type": "chatglm", "padded_vocab_size": m.rows("token_embd.weight"),
        "hidden_size": m.whole("embedding_length"), "num_layers": m.whole("block_count"), "num_attention_heads": heads,
        "multi_query_attention": True, "multi_query_group_num": groups, "kv_channels": dim,
        "ffn_hidden_size": m.whole("feed_forward_length"), "layernorm_epsilon": m.rms, "rmsnorm": True,
        "rope_ratio": m.number("rope.freq_base", 10000.0) / 10000.0, "seq_length": m.whole("context_length"),
        "add_qkv_bias": m.has("blk.0.attn_qkv.bias") or m.has("blk.0.attn_q.bias"), "add_bias_linear": False,
        "tie_word_embeddings": not m.has("output.weight"),
    }  # fmt: skip


def _glm4(m: Meta) -> Facts:
    return {
        "model_type": "glm4", **m.sizes(), **m.ropes(), "rms_norm_eps": m.rms, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"), "attention_bias": m.has("blk.0.attn_q.bias"),
    }  # fmt: skip


def _stablelm(m: Meta) -> Facts:
    return {
        "model_type": "stablelm", **m.sizes(), **m.ropes(), "layer_norm_eps": m.layer_norm, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"), "use_qkv_bias": m.has("blk.0.attn_q.bias"),
        "qk_layernorm": m.has("blk.0.attn_q_norm.weight"), "use_parallel_residual": not m.has("blk.0.ffn_norm.weight"),
    }  # fmt: skip


def _gpt_neox(m: Meta) -> Facts:
    return {
        "model_type": "gpt_neox", **m.sizes(), **m.ropes(), "layer_norm_eps": m.layer_norm, "hidden_act": "gelu",
        "intermediate_size": m.whole("feed_forward_length"),
        "use_parallel_residual": m.flag("use_parallel_residual", True),
    }  # fmt: skip


def _internlm2(m: Meta) -> Facts:
    return {
        "model_type": "internlm2", **m.sizes(), **m.ropes(), "rms_norm_eps": m.rms, "hidden_act": "silu",
        "intermediate_size": m.whole("feed_forward_length"), "bias": m.has("blk.0.attn_q.bias"),
    }  # fmt: skip


def _qwen(m: Meta) -> Facts:
    """Qwen-1: what the network does beyond its trained length is not in the file, and llama.cpp does not do it."""
    return {
        "model_type": "qwen", "vocab_size": m.rows("token_embd.weight"), "hidden_size": m.whole("embedding_length"),
        "num_hidden_layers": m.whole("block_count"), "num_attention_heads": m.heads, "kv_channels": m.head_dim,
        "layer_norm_epsilon": m.rms, "max_position_embeddings": m.whole("context_length"),
        "seq_length": m.whole("context_length"), "rotary_emb_base": m.number("rope.freq_base", 10000.0),
        "intermediate_size": 2 * m.rows("blk.0.ffn_up.weight"), "use_dynamic_ntk": False, "use_logn_attn": False,
        "no_bias": True, "tie_word_embeddings": not m.has("output.weight"),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """``pairs``: the rows of q and k are permuted so that rotary pairs are neighbours. ``fused_up``: ``ffn_up`` holds
    the gate's rows, then those of up. ``one_added``: norms are stored as 1 + weight."""

    facts: Callable[[Meta], Facts]
    pairs: bool = False
    fused_up: bool = False
    one_added: bool = False


KINDS: dict[str, Kind] = {
    "llama": Kind(_llama, pairs=True),
    "qwen2": Kind(_qwen2),
    "qwen3": Kind(_qwen2),
    "qwen2moe": Kind(_qwen_moe),
    "qwen3moe": Kind(_qwen_moe),
    "gemma": Kind(_gemma, one_added=True),
    "gemma2": Kind(_gemma, one_added=True),
    "gemma3": Kind(_gemma, one_added=True),
    "phi3": Kind(_phi3, fused_up=True),
    "gpt2": Kind(_gpt2),
    "bloom": Kind(_bloom),
    "baichuan": Kind(_baichuan, pairs=True),
    "chatglm": Kind(_chatglm, fused_up=True),
    "glm4": Kind(_glm4, fused_up=True),
    "stablelm": Kind(_stablelm),
    "gptneox": Kind(_gpt_neox),
    "internlm2": Kind(_internlm2, pairs=True),
    "qwen": Kind(_qwen),
}
"""By ``general.architecture``."""
