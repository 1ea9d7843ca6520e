"""Asks a checkpoint folder all questions with transformers: `python -m tools.train_demo.evaluate FOLDER [QUESTIONS] [TEMPERATURE]`."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .questions import Question, right

QUESTIONS = Path("tests/demo/questions.jsonl")


class Asker:
    """Batched generation by transformers in float32."""

    def __init__(self, folder: Path, temperature: float = 0.0) -> None:
        self.tok = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.eos = set(self.model.generation_config.eos_token_id)
        self.how: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        )

    def ask(self, prompts: list[str], limit: int = 160) -> list[tuple[str, bool]]:
        """(answer, ended by itself) for each prompt."""
        out = []
        for i in range(0, len(prompts), 48):
            part = self.tok(prompts[i : i + 48], return_tensors="pt", padding=True, add_special_tokens=False)
            part.pop("token_type_ids", None)
            with torch.no_grad():
                ids = self.model.generate(**part, max_new_tokens=limit, **self.how)
            for row in ids[:, part["input_ids"].shape[1] :].tolist():
                ended = any(t in self.eos for t in row)
                out.append((self.tok.decode(row, skip_special_tokens=True), ended))
        return out


def prompts_of(asker: Asker, questions: list[Question]) -> list[str]:
    """Prompts; earlier turns of a talk are first answered by the model itself."""
    talks: list[list[dict[str, str]]] = [[{"role": "user", "content": q["turns"][0]}] for q in questions]
    for turn in range(1, max(len(q["turns"]) for q in questions)):
        open_ = [i for i, q in enumerate(questions) if len(q["turns"]) > turn]
        texts = [asker.tok.apply_chat_template(talks[i], tokenize=False, add_generation_prompt=True) for i in open_]
        for i, (answer, _) in zip(open_, asker.ask(texts), strict=True):
            talks[i] += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": questions[i]["turns"][turn]},
            ]
    return [q["turns"][0] if q["kind"] == "complete" else
            asker.tok.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            for q, talk in zip(questions, talks, strict=True)]  # fmt: skip


def evaluate(folder: Path, file: Path = QUESTIONS, temperature: float = 0.0, *, show: bool = True) -> dict[str, Any]:
    """Accuracy over all, over held-out forms, and by group."""
    questions = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    asker = Asker(folder, temperature)
    groups: dict[str, list[bool]] = defaultdict(list)
    for question, (answer, ended) in zip(questions, asker.ask(prompts_of(asker, questions)), strict=True):
        good = right(question, answer, ended)
        groups[question["group"]].append(good)
        groups["held_out" if question["held_out"] else "seen_form"].append(good)
        if show and not good:
            print(
                f"WRONG {question['id']} {question['turns']} want {question['expect']} got {answer!r}{'' if ended else ' (no end)'}"
            )
    split = {name: f"{sum(v)}/{len(v)}" for name, v in sorted(groups.items())}
    total = groups["held_out"] + groups["seen_form"]
    return {
        "questions": len(total),
        "right": sum(total),
        "accuracy": round(sum(total) / len(total), 4),
        "by_group": split,
    }


def main() -> None:
    """Command line."""
    started = time.time()
    file = Path(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS
    print(json.dumps(evaluate(Path(sys.argv[1]), file, float(sys.argv[3]) if len(sys.argv) > 3 else 0.0), indent=1))
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
