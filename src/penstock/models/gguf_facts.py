"""What GGUF metadata says of each architecture, in the words of the family's ``config.json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.models.gguf_meta import Facts, Meta


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
    the gate's rows, then those of up. ``one_added``: norms are stored as 1 + weight. ``others``: model types of other
    checkpoints that become such files."""

    facts: Callable[[Meta], Facts]
    pairs: bool = False
    fused_up: bool = False
    one_added: bool = False
    others: tuple[str, ...] = ()


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
    "chatglm": Kind(_chatglm, fused_up=True, others=("glm",)),
    "glm4": Kind(_glm4, fused_up=True),
    "stablelm": Kind(_stablelm),
    "gptneox": Kind(_gpt_neox),
    "internlm2": Kind(_internlm2, pairs=True),
    "qwen": Kind(_qwen),
}
"""By ``general.architecture``."""
