"""The training loop."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from .batches import Batch, Packer
from .documents import Sampler, all_items
from .export import export, plain_name
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


@dataclass(frozen=True)
class Phase:
    """A stretch of training with fresh optimizers: `scale` times the peak rates, constant until `flat`, then falling to
    zero at step `steps`; cut off after `stop` steps."""

    steps: int
    stop: int
    scale: float
    flat: float
    warm: int

    def rate(self, step: int) -> float:
        """Factor on the peak learning rates."""
        fall = max(0.0, (self.steps - step) / (self.steps * (1 - self.flat)))
        return self.scale * min(1.0, (step + 1) / self.warm, fall)


FIRST = Phase(steps=1700, stop=1460, scale=1.0, flat=0.6, warm=50)
SECOND = Phase(steps=900, stop=900, scale=0.4, flat=0.1, warm=15)


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


def draw(packer: Packer, sampler: Sampler, step: int) -> Batch:
    """4096 tokens: mostly short rows, now and then longer chats, seldom chats as long as the context."""
    if step % 60 == 59:
        return packer.batch(4, 1024, lambda: sampler.talk(40))
    if step % 12 == 11:
        return packer.batch(8, 512, lambda: sampler.talk(8))
    return packer.batch(32, 128, sampler.document)


def train(model: Llama, tok: Tokenizer, phase: Phase, seed: int, out: Path, facts: dict[str, Any]) -> None:
    """Runs one phase; writes the checkpoint folder `out` every few minutes and at the end. `facts` are added up."""
    torch.manual_seed(seed)
    started = saved = time.time()
    run = torch.compile(model, dynamic=False)
    sampler = Sampler(all_items(), seed)
    packer = Packer(sampler, tok)
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("layers")]
    outer = [p for n, p in model.named_parameters() if not (p.dim() == 2 and n.startswith("layers"))]
    optimizers = [
        Muon(inner, lr=6e-3, decay=0.03),
        torch.optim.AdamW(outer, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    groups = [group for o in optimizers for group in o.param_groups]
    peaks = [group["lr"] for group in groups]
    seen, learned, mean = 0, 0, 0.0
    for step in range(phase.stop):
        batch = draw(packer, sampler, step)
        # The longest rows are too rare to be worth compiling for.
        loss = loss_of(model, model if batch.ids.shape[1] == 1024 else run, batch)
        for o in optimizers:
            o.zero_grad(set_to_none=True)
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * phase.rate(step)
        for o in optimizers:
            o.step()
        values = loss.detach()
        note(sampler, batch, values)
        seen, learned = seen + batch.ids.numel(), learned + len(values)
        mean += (float(values.mean()) - mean) * (0.05 if step > 20 else 1 / (step + 1))
        last = step + 1 == phase.stop
        if step % 20 == 19 or last:
            hot = sum(heat > 0.5 for heat in sampler.heat) / len(sampler.heat)
            passed = time.time() - started
            line = (
                f"step {step + 1}/{phase.stop} loss {mean:.4f} hot {hot:.3f} {seen / passed:.0f} tok/s {passed:.0f} s"
            )
            print(line, flush=True)
        if time.time() - saved > 150 or last:
            saved = time.time()
            now = {"steps": step + 1, "seconds": round(saved - started), "tokens": seen, "learned_tokens": learned}
            export(
                model, tok, out, {**facts, **{k: v + facts.get(k, 0) for k, v in now.items()}, "loss": round(mean, 4)}
            )


def resume(folder: Path) -> tuple[Llama, Tokenizer, dict[str, Any]]:
    """Model, tokenizer and figures of an exported folder."""
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = Llama(Shape(vocab=tok.get_vocab_size()))
    model.load_state_dict({plain_name(n): t.float() for n, t in load_file(folder / "model.safetensors").items()})
    return model, tok, json.loads((folder / "training.json").read_text(encoding="utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo_model"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--resume", type=Path, help="skip the first phase and start the second from this folder")
    parser.add_argument(
        "--steps", type=int, default=SECOND.steps, help="steps of the second phase (default: %(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.resume is None:
        torch.manual_seed(SEED)
        tok = make_tokenizer(Shape().vocab)
        model = Llama(Shape(vocab=tok.get_vocab_size()))
        facts = {"seed": SEED, "threads": args.threads, "torch": torch.__version__,
                 "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
        train(model, tok, FIRST, SEED, args.out, facts)
        args.resume = args.out
    model, tok, facts = resume(args.resume)
    train(model, tok, replace(SECOND, steps=args.steps, stop=args.steps), SEED + 1, args.out, facts)
