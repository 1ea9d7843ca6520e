"""Small models, whose step is latency: penstock's decode of one stream beside a plain C loop over the same weights.

    python -m benchmarks.small [--tokens 200] [--turns 5] [--folder DIR ...] [--out FILE]

``loop.c`` is compiled for this machine (``cc -O3 -march=native -ffast-math``), reads the weights in float32
and decodes greedily on one thread; penstock does the same with ``LLM.generate``, in float32 and as the checkpoint is
stored, on one thread and on all. Both give the same tokens, or the run fails. Microseconds a token, the best of some
turns.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from penstock import LLM, SamplingParams
from penstock.assemble import EMBEDDED
from penstock.checkpoints.folder import Checkpoint

LAYER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def dump(folder: Path, target: Path) -> None:
    """A Llama checkpoint with tied embeddings in the form that loop.c reads."""
    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    shape = (
        config["hidden_size"], config["num_hidden_layers"], heads, config["num_key_value_heads"],
        config.get("head_dim") or config["hidden_size"] // heads, config["intermediate_size"], config["vocab_size"],
        config["max_position_embeddings"], 0, 0,
    )  # fmt: skip
    if config["model_type"] != "llama" or not config["tie_word_embeddings"]:
        raise SystemExit(f"{folder}: loop.c has Llama with tied embeddings only")
    names = ["model.embed_tokens"]
    names += [f"model.layers.{i}.{part}" for i in range(shape[1]) for part in LAYER]
    with Checkpoint.open(folder) as checkpoint, target.open("wb") as file:
        assert checkpoint.weights is not None
        file.write(struct.pack("<10i2f", *shape, config.get("rope_theta", 10000.0), config["rms_norm_eps"]))
        for name in [*names, "model.norm"]:
            file.write(np.ascontiguousarray(checkpoint.weights.get(f"{name}.weight"), np.float32).tobytes())


def build(target: Path) -> None:
    source = Path(__file__).with_name("loop.c")
    subprocess.run(
        ["cc", "-std=gnu11", "-O3", "-march=native", "-ffast-math", str(source), "-o", str(target), "-lm"], check=True
    )


def plain(binary: Path, weights: Path, tokens: int) -> tuple[list[int], float]:
    out = subprocess.run(
        [str(binary), str(weights), str(tokens), "1"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [int(t) for t in out[0].split()], float(out[1])


def generated(llm: LLM, tokens: int) -> tuple[list[int], float]:
    """All of ``generate``: Python, scheduler, sampling, everything but text."""
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    output = llm.generate([{"prompt_token_ids": [1]}], params)[0]
    return list(output.outputs[0].token_ids), (time.perf_counter() - start) * 1e6 / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, action="append")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    print("| model | what | microseconds a token | of the loop's speed |\n|---|---|---|---|")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        binary, weights = Path(scratch, "loop"), Path(scratch, "weights")
        build(binary)
        for folder in given.folder or [EMBEDDED]:
            dump(folder, weights)
            want = plain(binary, weights, given.tokens)[0]
            forms: dict[str, dict[str, object]] = {
                "float32, 1 thread": {"dtype": "float32", "threads": 1}, "float32": {"dtype": "float32"},
                "as stored, 1 thread": {"threads": 1}, "as stored": {},
            }  # fmt: skip
            engines = {
                name: LLM(str(folder), skip_tokenizer_init=True, enable_prefix_caching=False, **options)  # type: ignore[arg-type]
                for name, options in forms.items()
            }
            if generated(engines["float32, 1 thread"], given.tokens)[0] != want:
                sys.exit(f"{folder}: the loop and penstock say different tokens")
            runs: dict[str, Callable[[], float]] = {
                "plain C loop, 1 thread": lambda: plain(binary, weights, given.tokens)[1]
            }
            for name, llm in engines.items():
                runs[f"penstock, {name}"] = lambda llm=llm: generated(llm, given.tokens)[1]  # type: ignore[misc]
            best = dict.fromkeys(runs, 1e12)
            for _ in range(given.turns):
                for name, run in runs.items():
                    best[name] = min(best[name], run())
            loop = best["plain C loop, 1 thread"]
            for name, took in best.items():
                print(f"| {folder.name} | {name} | {took:.1f} | {loop / took:.2f} |", flush=True)
            results[folder.resolve().name] = best
            for llm in engines.values():
                llm.close()
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
