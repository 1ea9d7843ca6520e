"""What masks of structured answers cost a step: beside it, as they are made, and in front of it, steps taking turns.

    python -m benchmarks.masks --tokenizer DIR [--sequences 8] [--steps 300] [--threads 1]

A random small llama with DIR's vocabulary; a schema of four properties; every step is timed in one of the two ways.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from penstock import LLM, SamplingParams
from penstock.types import Batch, StepOutput

SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "tags", "text"],
    "properties": {
        "name": {"type": "string", "minLength": 40}, "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 8}, "text": {"type": "string"},
    },
}  # fmt: skip


def checkpoint(folder: Path, tokenizer: Path, vocab: int, hidden: int, layers: int) -> None:
    from safetensors.numpy import save_file

    for each in tokenizer.iterdir():
        if each.is_file():
            shutil.copy(each, folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "vocab_size": vocab,
        "intermediate_size": 4 * hidden, "num_hidden_layers": layers, "num_attention_heads": 8, "head_dim": hidden // 8,
        "num_key_value_heads": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32", "eos_token_id": vocab - 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, np.float32) / np.sqrt(shape[-1])).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(vocab, hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for i in range(layers):
        for name, shape in (
            ("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (hidden, hidden)),
            ("self_attn.v_proj", (hidden, hidden)), ("self_attn.o_proj", (hidden, hidden)),
            ("mlp.gate_proj", (4 * hidden, hidden)), ("mlp.up_proj", (4 * hidden, hidden)),
            ("mlp.down_proj", (hidden, 4 * hidden)),
        ):  # fmt: skip
            tensors[f"model.layers.{i}.{name}.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = np.ones(hidden, np.float32)
    save_file(tensors, folder / "model.safetensors")


class InFront:
    """An executor that, when ``on``, waits for a step's masks before it begins."""

    def __init__(self, executor: Any) -> None:
        self._executor, self.on, self.waited = executor, False, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, batch: Batch) -> StepOutput:
        """``waited``: seconds for masks that nothing else went on in."""
        sampling, self.waited = batch.sampling, 0.0
        if sampling is not None and sampling.ready is not None:
            ready = sampling.ready

            def timed() -> None:
                began = time.perf_counter()
                ready()
                self.waited += time.perf_counter() - began

            sampling.ready = timed
            if self.on:
                timed()
        found: StepOutput = self._executor.run(batch)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=152_064)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(folder, args.tokenizer, args.vocab, args.hidden, args.layers)
        with LLM(folder, threads=args.threads, kv_cache_memory=1 << 28) as llm:
            report(llm, args)


def report(llm: LLM, args: argparse.Namespace) -> None:
    engine = llm.model.engine
    engine.executor = in_front = InFront(engine.executor)
    kinds = ("plain", "beside", "in front", "waited beside", "waited in front")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind in ("plain", "structured"):
        wish = {"json": SCHEMA} if kind == "structured" else None
        params = SamplingParams(max_tokens=args.steps, min_tokens=args.steps, structured_outputs=wish, seed=1)
        for i in range(args.sequences):
            llm.frontend.add(str(i), llm.frontend.encode([1 + i]), params)
        step = 0
        while engine.has_work:
            in_front.on = kind == "structured" and step % 2 == 1
            began = time.perf_counter()
            llm.frontend.step()
            took = time.perf_counter() - began
            if engine.stats.running == args.sequences and step > 4:
                times["plain" if kind == "plain" else "in front" if in_front.on else "beside"].append(took)
                if kind != "plain":
                    times["waited in front" if in_front.on else "waited beside"].append(in_front.waited)
            step += 1
    print(f"{args.sequences} sequences, vocabulary {args.vocab}, {args.threads} thread(s) of the model; ms a step")
    print(f"{'':16} {'steps':>6} {'least':>8} {'10 %':>8} {'median':>8}")
    for kind, found in times.items():
        low, tenth, middle = (np.quantile(found, q) * 1e3 for q in (0.0, 0.1, 0.5))
        print(f"{kind:16} {len(found):6} {low:8.3f} {tenth:8.3f} {middle:8.3f}")
    left = np.quantile(times["waited beside"], 0.5) / np.quantile(times["waited in front"], 0.5)
    print(f"of the time for masks, {1 - left:.1%} passes while the model runs (medians)")


if __name__ == "__main__":
    main()
