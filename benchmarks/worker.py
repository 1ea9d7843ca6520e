"""One engine in a process of its own: commands in as JSON lines, measurements out. Lets engines be interleaved.

{"requests": [[[token ids], new tokens], ...]}  ->  {"seconds": s, "first": s to the first token, "tokens": n}
{"probe": true}                                 ->  the machine's limits as penstock measures them
{"rss": true}                                   ->  {"peak_mb": …}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

Requests = list[tuple[list[int], int]]


class Penstock:
    def __init__(self, model: str, dtype: str, threads: int, quantization: str = "") -> None:
        from penstock import LLM

        self.llm = LLM(
            model, dtype=dtype, quantization=quantization or None, threads=threads, max_model_len=4096,
            skip_tokenizer_init=True,
            enable_prefix_caching=False, kv_cache_memory=4 << 30,
        )  # fmt: skip

    def run(self, requests: Requests) -> tuple[float, int]:
        """Seconds to the first token of any request, and tokens generated."""
        from penstock import RequestOutputKind, SamplingParams

        frontend, first, tokens = self.llm.frontend, 0.0, 0
        start = time.perf_counter()
        for i, (ids, count) in enumerate(requests):
            params = SamplingParams(
                temperature=0.0, max_tokens=count, ignore_eos=True, output_kind=RequestOutputKind.DELTA
            )
            frontend.add(f"{start}-{i}", frontend.encode(ids), params)
        while frontend.num_live:
            for output in frontend.step():
                first = first or time.perf_counter() - start
                tokens += len(output.outputs[0].token_ids)
        return first, tokens

    def probe(self) -> dict[str, float]:
        from penstock import _native

        return {name: float(value) for name, value in _native.probe().items() if not isinstance(value, str)}


class Transformers:
    def __init__(self, model: str, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads or 2)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.model.eval()

    def run(self, requests: Requests) -> tuple[float, int]:
        torch = self.torch
        longest = max(len(ids) for ids, _ in requests)
        ids = torch.tensor([[0] * (longest - len(r)) + r for r, _ in requests])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r, _ in requests])
        count = max(n for _, n in requests)
        with torch.no_grad():
            self.model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
            )
        return 0.0, sum(n for _, n in requests)


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


def main() -> None:
    engine, model, dtype, threads = sys.argv[1:5]
    engine, _, quantization = engine.partition(":")
    started = time.perf_counter()
    more = (quantization,) if quantization else ()
    runner: Any = {"penstock": Penstock, "transformers": Transformers}[engine](model, dtype, int(threads), *more)
    print(json.dumps({"loaded": time.perf_counter() - started}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "requests" in command:
            start = time.perf_counter()
            first, tokens = runner.run([(ids, n) for ids, n in command["requests"]])
            reply: dict[str, Any] = {"seconds": time.perf_counter() - start, "first": first, "tokens": tokens}
        elif "probe" in command:
            reply = runner.probe()
        else:
            reply = {"peak_mb": peak_mb()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
