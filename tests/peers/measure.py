"""The tables of docs/formats.md on GGUF beside llama.cpp.

    python -m tests.peers.measure agree              every reference file: how far each engine is from exact logits
    python -m tests.peers.measure perplexity [n]     two trained models in every type: n windows of a text, 4 n answers

Exact is what the blocks stand for, computed in float32. PENSTOCK_LLAMA_CPP_PYTHON names a Python with llama-cpp-python.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tools.train_demo.items import read_facts

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.gguf import GgufFile
from tests.checkpoints.gguf_files import write
from tests.helpers import REPOSITORY, shared
from tests.peers.agreement import F32, distance
from tests.peers.client import LlamaCpp, open_peer
from tests.peers.test_llama_cpp import TYPES, ours, prompts_of
from tests.quant.measure import windows_of
from tests.quant.test_gguf_families import llama, usual
from tests.quant.test_golden_gguf import FILES

FLOAT: dict[str, Any] = {}
INT8: dict[str, Any] = {"compute": "auto", "activation": "int8"}


def agree(peer: LlamaCpp) -> None:
    print("| file | type | llama.cpp: largest | mean | tokens | float: largest | int8: largest | mean | tokens |")
    print("|---" * 9 + "|")
    for folder, name in FILES:
        if folder == "gguf_baichuan":
            continue
        path, prompts = shared("golden", folder, f"{name}.gguf"), prompts_of(folder)
        plain = peer.quantize(path, peer.folder / "plain.gguf", "F32")
        exact = peer.logits(plain, prompts)
        there = distance(peer.logits(path, prompts), exact)
        floats, whole = distance(ours(path, prompts), exact), distance(ours(path, prompts, **INT8), exact)
        print(
            f"| {folder.removeprefix('gguf_')} | {name} | {there.largest:.4f} | {there.mean:.5f} "
            f"| {there.same}/{there.rows} | {floats.largest:.0e} | {whole.largest:.4f} | {whole.mean:.5f} "
            f"| {whole.same}/{whole.rows} |", flush=True,
        )  # fmt: skip


def to_gguf(folder: Path, path: Path) -> Path:
    """A Llama checkpoint as llama.cpp's converter writes it, in float32, without its vocabulary."""
    import gguf

    with Checkpoint.open(folder) as checkpoint:
        config, source = checkpoint.config, checkpoint.weights
        assert source is not None
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
        tensors: dict[str, F32] = {}
        for original in source.names():
            for changed, w in llama(original, np.array(source.get(original), np.float32), config).items():
                tensors[names.get_name(changed, try_suffixes=(".weight",))] = w
    facts = {"general.architecture": "llama", "tokenizer.ggml.model": "none", **usual(config, "llama")}
    return write(path, facts | {"llama.vocab_size": config["vocab_size"]}, tensors)


Text = tuple[list[int], int]  # tokens, and how many of them are given: the rest is foretold


def stories(count: int) -> tuple[Path, list[Text]]:
    return shared("assets", "stories260K-llama", "hf"), [(window, 1) for window in windows_of(count)]


def demo(count: int) -> tuple[Path, list[Text]]:
    """What it was taught, asked in words that it was not: the answers count."""
    from tokenizers import Tokenizer

    folder = REPOSITORY / "src" / "penstock" / "demo_model"
    encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
    found = []
    for name in ("facts_en.txt", "facts_zh.txt"):
        items = [item for item in read_facts(name, name) if item.held_out]
        for item in items[: 2 * count]:
            question = f"<|im_start|>user\n{item.held_out[0]}<|im_end|>\n<|im_start|>assistant\n"
            ids = encode(question, add_special_tokens=False).ids
            found.append((ids + encode(item.answers[0] + "<|im_end|>", add_special_tokens=False).ids, len(ids)))
    return folder, found


def perplexity(logits: list[F32], texts: list[Text]) -> float:
    losses = []
    for all_rows, (ids, given) in zip(logits, texts, strict=True):
        rows = all_rows[given - 1 : -1].astype(np.float64)
        top = rows.max(axis=1)
        total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        losses.append(total - rows[np.arange(len(rows)), ids[given:]])
    return float(np.exp(np.concatenate(losses).mean()))


def types_in(path: Path) -> Iterator[str]:
    """The types of its matrices, the most frequent first."""
    with closing(GgufFile(path)) as file:
        kinds = Counter(file.block_type(name).upper() for name in file.names() if len(file.shape(name)) > 1)
    yield from (f"{kind} × {n}" for kind, n in kinds.most_common())


def perplexities(peer: LlamaCpp, count: int) -> None:
    for title, (folder, texts) in {"demo_model": demo(count), "stories260K": stories(count)}.items():
        base, prompts = to_gguf(folder, peer.folder / "base.gguf"), [ids for ids, _ in texts]
        print(f"\n{title}: {sum(len(ids) - given for ids, given in texts):,} tokens\n")
        print("| type | made of | llama.cpp | penstock, float | penstock, int8 |\n|---|---|---|---|---|")
        for kind in TYPES:
            path = peer.quantize(base, peer.folder / f"{kind}.gguf", kind)
            there = perplexity(peer.logits(path, prompts), texts)
            here = [perplexity(ours(path, prompts, **options), texts) for options in (FLOAT, INT8)]
            print(f"| {kind} | {', '.join(types_in(path))} | {there:.4f} | {here[0]:.4f} | {here[1]:.4f} |", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_peer(Path(folder)) as peer:
        print(f"llama-cpp-python {peer.version}")
        if sys.argv[1] == "agree":
            agree(peer)
        else:
            perplexities(peer, int(sys.argv[2]) if len(sys.argv) > 2 else 16)


if __name__ == "__main__":
    main()
