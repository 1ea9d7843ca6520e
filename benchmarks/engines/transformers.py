"""Hugging Face transformers: sdpa, one left-padded batch for all requests."""

from __future__ import annotations

from typing import Any

Requests = list[tuple[list[int], int]]


class Engine:
    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        import transformers

        torch.set_num_threads(spec["threads"])
        self.torch, self.weight_bytes = torch, 0
        self.version = f"{transformers.__version__}, torch {torch.__version__}"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.bfloat16).eval()

    def run(self, requests: Requests) -> int:
        torch = self.torch
        longest = max(len(ids) for ids, _ in requests)
        ids = torch.tensor([[0] * (longest - len(r)) + r for r, _ in requests])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r, _ in requests])
        count = max(n for _, n in requests)
        with torch.inference_mode():
            self.model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=count, min_new_tokens=count,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return sum(n for _, n in requests)
