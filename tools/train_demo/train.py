"""The training loop."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from .batches import Batch, Packer
from .documents import Sampler, all_items
from .export import export
from .model import Llama, Shape
from .optim import Muon
from .tokens import train_tokenizer

SEED = 20


def make_tokenizer(vocab: int) -> Tokenizer:
    """The tokenizer from twenty thousand documents drawn evenly."""
    sampler = Sampler(all_items(), SEED)
    plain = ("".join(p.text for p in sampler.document()) for _ in range(20000))
    fixed = (" ".join((*item.ask, *item.answers, *item.raws)) for item in sampler.items)
    return train_tokenizer((text for source in (plain, fixed) for text in source), vocab)


def rate(step: int, steps: int, decay: float = 0.4) -> float:
    """Warm up, stay, then fall linearly to zero over the last part."""
    return min(1.0, (step + 1) / 50, max(0.0, (steps - step) / (steps * decay)))


def loss_of(model: Llama, run: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Tensor:
    """Loss of every learned token; `run` is the model or its compiled form."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = run(batch.ids, batch.mask).reshape(-1, model.s.hidden)[batch.learn]
        logits = model.logits(hidden)
    return F.cross_entropy(logits.float(), batch.target, reduction="none")


def note(sampler: Sampler, batch: Batch, loss: Tensor) -> None:
    """Tells the sampler the worst token of every answer seen."""
    worst: dict[int, float] = {}
    for item, value in zip(batch.item.tolist(), loss.tolist(), strict=True):
        if item >= 0:
            worst[item] = max(worst.get(item, 0.0), value)
    for item, value in worst.items():
        sampler.learned(item, value)


def train(steps: int, out: Path, threads: int, log: Path) -> None:
    """Trains and writes the checkpoint folder `out`; a file `steps` beside `log` may change the count while lr is constant."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    torch.set_num_threads(threads)
    started = time.time()
    tok = make_tokenizer(Shape().vocab)
    shape = Shape(vocab=tok.get_vocab_size())
    model = Llama(shape)
    run = torch.compile(model, dynamic=False)
    sampler = Sampler(all_items(), SEED)
    packer = Packer(sampler, tok)
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("layers")]
    outer = [p for n, p in model.named_parameters() if not (p.dim() == 2 and n.startswith("layers"))]
    optimizers = [
        Muon(inner, lr=6e-3, decay=0.03),
        torch.optim.AdamW(outer, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [group["lr"] for o in optimizers for group in o.param_groups]
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {len(sampler.items)} items, vocab {shape.vocab}",
        flush=True,
    )
    seen, learned, mean, saved, step = 0, 0, 0.0, time.time(), 0
    while step < steps:
        if step % 60 == 59:
            batch = packer.batch(4, 1024, lambda: sampler.talk(40))
        elif step % 12 == 11:
            batch = packer.batch(8, 512, lambda: sampler.talk(8))
        else:
            batch = packer.batch(32, 128, sampler.document)
        loss = loss_of(model, run, batch)
        for o in optimizers:
            o.zero_grad(set_to_none=True)
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        groups = [group for o in optimizers for group in o.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate(step, steps)
        for o in optimizers:
            o.step()
        values = loss.detach()
        note(sampler, batch, values)
        seen, learned, step = seen + batch.ids.numel(), learned + len(values), step + 1
        mean += (float(values.mean()) - mean) * (0.05 if step > 20 else 1 / step)
        if step % 20 == 0:
            heat = np.array(sampler.heat)
            line = (f"step {step}/{steps} loss {mean:.4f} heat>.5 {(heat > 0.5).mean():.3f} >.1 {(heat > 0.1).mean():.3f} "
                    f"{seen / (time.time() - started):.0f} tok/s {time.time() - started:.0f} s")  # fmt: skip
            print(line, flush=True)
        if time.time() - saved > 150 or step == steps:
            wish = log.with_name("steps")
            if wish.exists() and rate(step, steps) == 1.0:
                steps = int(wish.read_text())
            facts = {"seed": SEED, "steps": steps, "step": step, "seconds": round(time.time() - started), "tokens": seen,
                     "learned_tokens": learned, "loss": round(mean, 4), "threads": threads, "torch": torch.__version__,
                     "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
            export(model, tok, out, facts)
            heat_by: dict[str, list[float]] = {}
            for item, value in zip(sampler.items, sampler.heat, strict=True):
                heat_by.setdefault(item.group, []).append(value)
            log.write_text(json.dumps({g: round(float(np.mean(v)), 4) for g, v in heat_by.items()}, indent=1))
            saved = time.time()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description=__doc__)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--out", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.steps, args.out, args.threads, args.out.parent / "heat.json")
