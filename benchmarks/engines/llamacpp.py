"""llama.cpp through the low-level interface of llama-cpp-python: prompts together, then one batch a step.

A format that ends in ``+norepack`` keeps the file's own layout, which is slower for one stream and faster for prompts
on some machines.
"""

from __future__ import annotations

from typing import Any

Requests = list[tuple[list[int], int]]
UBATCH = 512


class Engine:
    def __init__(self, spec: dict[str, Any]) -> None:
        import llama_cpp

        self.lib, self.spec, self.version = llama_cpp, spec, llama_cpp.__version__
        self.weight_bytes = 0
        llama_cpp.llama_backend_init()
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(quiet, None)
        self.quiet = quiet  # the library keeps a bare pointer to it
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        if spec["format"].endswith("+norepack"):
            params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(spec["model"].encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {spec['model']}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.contexts: dict[int, Any] = {}

    def run(self, requests: Requests) -> int:
        many = len(requests) > 1
        ctx = self._context(self.spec["streams"] if many else 1)
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
        size = self.spec["context"]
        batch = lib.llama_batch_init(size, 0, 1)
        try:
            return self._generate(ctx, batch, size, requests)
        finally:
            lib.llama_batch_free(batch)

    def _context(self, streams: int) -> Any:
        if streams not in self.contexts:
            lib, spec = self.lib, self.spec
            params = lib.llama_context_default_params()
            each = spec["context"] if streams == 1 else spec["context_many"]
            params.n_ctx, params.n_seq_max = each * streams, streams
            params.n_batch, params.n_ubatch = spec["context"], UBATCH
            params.n_threads = params.n_threads_batch = spec["threads"]
            params.kv_unified = False
            self.contexts[streams] = lib.llama_init_from_model(self.model, params)
            if not self.contexts[streams]:
                raise RuntimeError("llama.cpp cannot make a context")
        return self.contexts[streams]

    def _generate(self, ctx: Any, batch: Any, size: int, requests: Requests) -> int:
        """Prompts in batches of at most ``size`` tokens, then one token of every live request a step."""
        latest: dict[int, int] = {}
        batch.n_tokens = 0
        waiting: list[tuple[int, int]] = []  # (request, place in the batch) of last prompt tokens
        for seq, (ids, _) in enumerate(requests):
            for position, token in enumerate(ids):
                if batch.n_tokens == size:
                    self._decode(ctx, batch, waiting, latest)
                last = position == len(ids) - 1
                if last:
                    waiting.append((seq, batch.n_tokens))
                self._add(batch, token, position, seq, last)
        self._decode(ctx, batch, waiting, latest)
        made = dict.fromkeys(latest, 1)
        while True:
            live = [seq for seq, (_, count) in enumerate(requests) if made[seq] < count]
            if not live:
                return sum(made.values())
            for place, seq in enumerate(live):
                self._add(batch, latest[seq], len(requests[seq][0]) + made[seq] - 1, seq, True)
                waiting.append((seq, place))
                made[seq] += 1
            self._decode(ctx, batch, waiting, latest)

    def _add(self, batch: Any, token: int, position: int, seq: int, logits: bool) -> None:
        i = batch.n_tokens
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
        batch.seq_id[i][0], batch.logits[i] = seq, logits
        batch.n_tokens += 1

    def _decode(self, ctx: Any, batch: Any, waiting: list[tuple[int, int]], latest: dict[int, int]) -> None:
        """Run the batch, take the likeliest token of each waiting request, and empty both."""
        import numpy as np

        if batch.n_tokens and self.lib.llama_decode(ctx, batch):
            raise RuntimeError("llama_decode failed")
        for seq, place in waiting:
            row = self.lib.llama_get_logits_ith(ctx, place)
            latest[seq] = int(np.ctypeslib.as_array(row, (self.vocab,)).argmax())
        batch.n_tokens = 0
        waiting.clear()
