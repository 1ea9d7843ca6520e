"""Reading a checkpoint's ``config.json``: every key is read, known to change nothing, or named in an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from penstock.errors import CheckpointError, UnsupportedError, nearest
from penstock.models.architecture import Activation

T = TypeVar("T")
MAX_WIDTH = 1 << 20
MAX_LAYERS = 1 << 12
MAX_VOCAB = 1 << 24
MAX_CONTEXT = 1 << 27

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip

NEUTRAL = frozenset({
    # read elsewhere: formats, tokens, names
    "model_type", "architectures", "quantization_config", "compression_config", "bos_token_id", "eos_token_id",
    "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "gmask_token_id",
    "decoder_start_token_id", "tokenizer_class", "tokenizer_type", "prefix", "bad_words_ids", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "ignore_index", "image_token_index",
    # where it came from, how it is kept
    "transformers_version", "_name_or_path", "name_or_path", "auto_map", "custom_pipelines", "torch_dtype", "dtype",
    "params_dtype", "bf16", "fp16", "fp32", "_commit_hash", "_from_model_config", "unsloth_version", "unsloth_fixed",
    "onnx_safe", "seed", "language", "license", "transformers.js_config", "_attn_implementation_autoset",
    # training
    "initializer_range", "init_std", "attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop",
    "attn_dropout_prob", "emb_dropout_prob", "resid_dropout", "embed_dropout", "dropout", "activation_dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "ffn_dropout", "layerdrop",
    "gradient_checkpointing", "router_aux_loss_coef", "router_z_loss_coef", "output_router_logits",
    "router_jitter_noise", "input_jitter_noise", "z_loss_weight", "label_smoothing", "init_method_std",
    "layer_norm_init", "summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "problem_type", "finetuning_task", "id2label", "label2id", "num_labels",
    "task_specific_params",
    # how others compute the same
    "use_cache", "pretraining_tp", "attn_implementation", "_attn_implementation", "use_flash_attn",
    "use_flash_attention_2", "flash_attention", "_flash_attn_2_enabled", "use_bfloat16", "torchscript", "return_dict",
    "output_attentions", "output_hidden_states", "tf_legacy_loss", "slow_but_exact", "tensor_parallel",
    "bias_dropout_fusion", "masked_softmax_fusion", "attention_softmax_in_fp32", "use_cache_quantization",
    "use_cache_kernel", "softmax_in_fp32", "use_kernels", "chunk_size_feed_forward", "memory_efficient",
    # defaults of generation, which generation_config.json holds today
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores", "return_dict_in_generate",
    "remove_invalid_values", "exponential_decay_length_penalty", "max_new_tokens", "keys_to_ignore_at_inference",
})  # fmt: skip
"""Keys that cannot change the logits of a causal decoder, or that another room reads."""

FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "is_decoder": (False, True),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "lm_head_bias": (False,),
    "rope_interleaved": (False,),
    "is_llama_config": (True,),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
}
"""Keys that any configuration may have, with the values that change nothing (null never does)."""

NO_HEAD = ("Classification", "QuestionAnswering", "RewardModel", "MaskedLM")


def class_names(config: Mapping[str, Any]) -> list[str]:
    """``architectures``, checked."""
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"config.json: architectures must be a list of names, found {str(names)[:80]!r}")
    return names


class FieldsError(UnsupportedError):
    """Fields of a configuration that are not understood; ``fields`` lists them."""

    def __init__(self, where: str, fields: list[str]) -> None:
        self.fields = fields
        super().__init__(
            f"{where} asks for what penstock does not understand, which may change results: {'; '.join(fields)}. "
            "If a field is harmless, take it out (hf_overrides={'name': None})"
        )


class Reader:
    """Reads typed values out of ``config`` and remembers which keys were asked for. A null counts as absent.

    Values of the wrong type or out of range raise ``CheckpointError`` at once; what is not understood is gathered, and
    :meth:`done` raises one ``FieldsError`` (an ``UnsupportedError``) that names it all.
    """

    def __init__(self, config: Mapping[str, Any], where: str = "config.json", prefix: str = "") -> None:
        self.config, self.where, self.prefix = config, where, prefix
        self.read: set[str] = set()
        self.refused: list[str] = []

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of ``names`` that has a value; all of them count as read."""
        self.read.update(names)
        return next((self.config[n] for n in names if self.config.get(n) is not None), default)

    def whole(self, *names: str, default: int | None = None, low: int = 1, high: int = MAX_WIDTH) -> int:
        value = self._needed(names, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._bad(names, value, f"a whole number from {low} to {high}")
        return value

    def number(self, *names: str, default: float | None = None, low: float = 0.0, high: float = 1e12) -> float:
        value = self._needed(names, default)
        ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not ok or not low <= value <= high:
            raise self._bad(names, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        value = self.get(*names, default=default)
        if not isinstance(value, bool):
            raise self._bad(names, value, "true or false")
        return value

    def choice(self, *names: str, table: Mapping[str, T], default: str) -> T:
        """What ``table`` has for the value; an unknown value is refused by :meth:`done`."""
        value = self.get(*names, default=default)
        if not isinstance(value, str) or value not in table:
            self.refuse(f"{self._shown(names)} = {value!r}{nearest(str(value), table)}, known: {', '.join(table)}")
            return table[default]
        return table[value]

    def activation(self, *names: str, default: str = "silu") -> Activation:
        return self.choice(*names, table=ACTIVATIONS, default=default)

    def only(self, name: str, *allowed: Any) -> None:
        """``name`` is understood as long as its value is absent or one of ``allowed``."""
        value = self.get(name)
        if value is not None and value not in allowed:
            expected = " or ".join(repr(a) for a in allowed)
            self.refuse(f"{self.prefix}{name} = {str(value)[:80]!r}" + (f" (known: {expected})" if allowed else ""))

    def refuse(self, what: str) -> None:
        self.refused.append(what)

    def unread(self) -> list[str]:
        """Keys with a value that nobody asked for."""
        known = self.read | (NEUTRAL if not self.prefix else frozenset())
        return [f"{self.prefix}{k}" for k, v in self.config.items() if k not in known and v is not None]

    def done(self) -> None:
        """Raise ``FieldsError`` naming every field that was not understood."""
        if not self.prefix:
            for name, allowed in FIXED.items():
                if name not in self.read:
                    self.only(name, *allowed)
            for name in class_names(self.config):
                if any(part in name for part in NO_HEAD):
                    self.refuse(f"architectures = {name!r} (not a model that predicts tokens)")
        unknown = [*self.refused, *self.unread()]
        if unknown:
            raise FieldsError(self.where, unknown)

    def _needed(self, names: tuple[str, ...], default: float | None) -> Any:
        value = self.get(*names, default=default)
        if value is None:
            raise CheckpointError(
                f"{self.where}: '{self.prefix}{names[0]}' is missing; check that the file is complete"
            )
        return value

    def _shown(self, names: tuple[str, ...]) -> str:
        return self.prefix + next((n for n in names if self.config.get(n) is not None), names[0])

    def _bad(self, names: tuple[str, ...], value: object, want: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {self._shown(names)} must be {want}, found {str(value)[:80]!r}")
