"""Metadata of a GGUF model, read with care: typed values, and the sizes and rotary facts that most families share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
        if dim < 1:
            raise CheckpointError(f"{self.name}: heads of no width (attention.key_length, embedding_length)")
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
        if dim < 2 or dim % 2 or len(factors) != dim // 2 or theta <= 1:
            raise CheckpointError(f"rope_freqs.weight has {len(factors)} factors for {dim} rotated elements of a head")
        for factor in (8.0, 32.0, 16.0, 4.0):
            scaling = RopeScaling("llama3", factor=factor, original_length=8192)
            rule = np.asarray(frequencies(Rope(dim, theta, scaling=scaling)).inv_freq) * np.asarray(factors)
            if np.allclose(rule, inverse(theta, dim), rtol=1e-5):
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
