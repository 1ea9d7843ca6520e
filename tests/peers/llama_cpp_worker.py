"""Runs llama.cpp under any Python that has llama-cpp-python: a line of JSON in, a line of JSON out.

    {"do": "logits", "model": PATH, "prompts": [[1, 2], …], "out": "x.npz"}    every row of each prompt, as p0, p1 …
    {"do": "greedy", "model": PATH, "prompts": [[1, 2], …], "count": 24}       {"tokens": [[…], …]}
    {"do": "quantize", "model": PATH, "to": PATH, "type": "Q4_K_M"}
    {"do": "tokenize", "model": PATH, "texts": ["…"], "special": true}         {"ids": [[…], …]}

It stands alone: the other Python has neither penstock nor its tests.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import numpy as np

llama_cpp: Any = importlib.import_module("llama_cpp")  # so that the types are the same where it is not installed
FTYPES = {"F32": 0} | {
    name.removeprefix("LLAMA_FTYPE_MOSTLY_"): value
    for name, value in vars(llama_cpp).items()
    if name.startswith("LLAMA_FTYPE_MOSTLY_")
}


class Model:
    """A model and a context that computes as exactly as llama.cpp can: one thread, keys and values in float32."""

    def __init__(self, path: str, vocab_only: bool = False) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only = vocab_only
        params.use_extra_bufts = False  # no repacked weights: their kernels round otherwise
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ValueError("llama.cpp refuses the file")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.context = None
        if vocab_only:
            return
        how = llama_cpp.llama_context_default_params()
        how.n_ctx = how.n_batch = how.n_ubatch = 512
        how.n_threads = how.n_threads_batch = 1
        how.type_k = how.type_v = 0  # float32
        how.flash_attn_type = 0
        how.swa_full = True
        self.context = llama_cpp.llama_init_from_model(self.model, how)
        if not self.context:
            raise ValueError("llama.cpp makes no context of the file")

    def close(self) -> None:
        if self.context:
            llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def run(self, ids: list[int], first: int) -> np.ndarray[Any, Any]:
        """Logits [len(ids), vocabulary] of tokens at positions ``first`` and on."""
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, first + i, 1, 1
            batch.seq_id[i][0] = 0
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise ValueError(f"llama_decode answers {status}")
        rows = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(rows, (len(ids) * self.size,)).reshape(len(ids), self.size).copy()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        self.forget()
        row, tokens = self.run(ids, 0)[-1], []
        while True:
            tokens.append(int(row.argmax()))
            if len(tokens) == count:
                return tokens
            row = self.run(tokens[-1:], len(ids) + len(tokens) - 1)[-1]

    def tokenize(self, text: str, special: bool) -> list[int]:
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 16))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), special, False)
        if n < 0:
            raise ValueError("too many tokens")
        return list(ids[:n])


def logits(ask: dict[str, Any]) -> dict[str, Any]:
    model = Model(ask["model"])
    rows: dict[str, Any] = {}
    for i, ids in enumerate(ask["prompts"]):
        model.forget()
        rows[f"p{i}"] = model.run(ids, 0)
    np.savez(ask["out"], **rows)
    model.close()
    return {}


def greedy(ask: dict[str, Any]) -> dict[str, Any]:
    model = Model(ask["model"])
    tokens = [model.greedy(ids, ask["count"]) for ids in ask["prompts"]]
    model.close()
    return {"tokens": tokens}


def quantize(ask: dict[str, Any]) -> dict[str, Any]:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = FTYPES[ask["type"]], 1, True
    status = llama_cpp.llama_model_quantize(ask["model"].encode(), ask["to"].encode(), params)
    if status != 0:
        raise ValueError(f"llama_model_quantize answers {status}")
    return {}


def tokenize(ask: dict[str, Any]) -> dict[str, Any]:
    model = Model(ask["model"], vocab_only=True)
    ids = [model.tokenize(text, ask["special"]) for text in ask["texts"]]
    model.close()
    return {"ids": ids}


def main() -> None:
    # What the library itself prints goes to the standard error output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    llama_cpp.llama_backend_init()
    verbs = {"logits": logits, "greedy": greedy, "quantize": quantize, "tokenize": tokenize}
    print(json.dumps({"version": llama_cpp.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = verbs[ask["do"]](ask)
        except ValueError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
