"""penstock through its offline engine; formats made at load are named by ``quantization``.

One that ends in ``+int8`` has what is plain in the checkpoint, its output projection, made int8.
"""

from __future__ import annotations

from typing import Any

Requests = list[tuple[list[int], int]]


class Engine:
    def __init__(self, spec: dict[str, Any]) -> None:
        from penstock import LLM, __version__

        self.version = __version__
        made = spec["format"].rpartition("+")[2]
        made = made if made in ("int8", "int4") else None
        self.llm = LLM(
            spec["model"], quantization=made, threads=spec["threads"], max_model_len=spec["context"],
            skip_tokenizer_init=True, enable_prefix_caching=False, kv_cache_memory=4 << 30,
        )  # fmt: skip
        executor = self.llm.model.engine.executor
        read = [name for name, weight in executor.program.weights.items() if weight.kind != "table"]
        self.weight_bytes = sum(executor.held(name).nbytes for name in read)

    def run(self, requests: Requests) -> int:
        from penstock import SamplingParams

        params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for _, n in requests]
        outputs = self.llm.generate(prompt_token_ids=[ids for ids, _ in requests], sampling_params=params)
        return sum(len(output.outputs[0].token_ids) for output in outputs)
