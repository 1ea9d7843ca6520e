"""What an engine has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class EngineStats:
    """Counters since start, and gauges of now."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    blocks_cached: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    steps: int = 0
    last_step_time: float = 0.0
    finished: dict[str, int] = field(default_factory=dict)
    step_sizes: list[int] = field(default_factory=lambda: [0] * 24)
    step_tokens: int = 0

    def count_step(self, tokens: int) -> None:
        """A step of so many tokens has run. ``step_sizes[i]`` counts those of 2**(i - 1) + 1 to 2**i tokens."""
        self.steps += 1
        self.step_tokens += tokens
        self.step_sizes[min(len(self.step_sizes) - 1, max(0, tokens - 1).bit_length())] += 1
