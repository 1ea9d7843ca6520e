"""The figures users know: input tokens, output tokens, seconds, tokens/s; and the time to the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.cli.messages import TEXTS, language

if TYPE_CHECKING:
    from penstock.types import RequestOutput

LABELS = ("input tokens", "output tokens", "output seconds", "output speed", "ttft")


@dataclass(frozen=True, slots=True)
class Stats:
    """Of one request, or of several that ran together. ``seconds`` from the first arrival to the last token."""

    input_tokens: int
    output_tokens: int
    seconds: float
    ttft: float | None
    cached_tokens: int = 0

    @property
    def speed(self) -> float:
        return self.output_tokens / self.seconds if self.seconds > 0 else 0.0

    def lines(self, languages: str = "auto") -> list[str]:
        """One line a figure; ``languages`` is ``en``, ``zh``, ``both``, or ``auto`` for the user's own."""
        values = (
            str(self.input_tokens), str(self.output_tokens), f"{self.seconds:.4g}", f"{self.speed:.1f}",
            "-" if self.ttft is None else f"{self.ttft:.4g}",
        )  # fmt: skip
        chosen = language() if languages == "auto" else languages
        labels = []
        for key in LABELS:
            english, chinese = TEXTS[key]
            labels.append({"en": english, "zh": chinese}.get(chosen, f"{chinese} / {english}"))
        return [f"{label}: {value}" for label, value in zip(labels, values, strict=True)]


def measure(outputs: Sequence[RequestOutput], output_tokens: int | None = None) -> Stats:
    """The figures of finished ``outputs``. ``output_tokens``: their count where outputs hold only the last delta."""
    metrics = [o.metrics for o in outputs if o.metrics is not None]
    counted = sum(len(a.token_ids) for o in outputs for a in o.outputs) if output_tokens is None else output_tokens
    begin = min((m.arrival_time for m in metrics), default=0.0)
    end = max((m.last_token_time or m.finished_time or m.arrival_time for m in metrics), default=begin)
    first = [m.ttft for m in metrics if m.ttft is not None]
    return Stats(
        input_tokens=sum(len(o.prompt_token_ids) for o in outputs),
        output_tokens=counted,
        seconds=end - begin,
        ttft=min(first) if first else None,
        cached_tokens=sum(o.num_cached_tokens for o in outputs),
    )
