"""One error for all weights that do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from penstock.checkpoints.source import some
from penstock.errors import CheckpointError

SHOWN = 20
MAX_HINTS = 400  # names compared for "did you mean"
SCALES = (".scales", ".weight_scale", ".weight_scale_inv")
QUANTISED = ". Scales are parts of quantised weights: quantization_config of config.json must say how these are stored"


class WeightsError(CheckpointError):
    """Weights missing, left over or of another shape. The message shows some of each, the attributes have them all.

    ``missing``: canonical name -> name looked for in the file. ``left_over``: names in the file that nothing uses.
    ``misshapen``: name in the file -> shapes expected and found.
    """

    def __init__(self, missing: Mapping[str, str], left_over: Sequence[str], misshapen: Mapping[str, str]) -> None:
        self.missing = dict(sorted(missing.items(), key=lambda item: item[1]))
        self.left_over = tuple(sorted(left_over))
        self.misshapen = dict(sorted(misshapen.items()))
        super().__init__(self._message())

    def _message(self) -> str:
        told = []
        if self.missing:
            names = list(dict.fromkeys(self.missing.values()))
            hinted = [name + self._hint(name) for name in names[:SHOWN]]
            told.append(f"{_count(len(names))} missing: {some([*hinted, *names[SHOWN:]], SHOWN, 300)}")
        if self.left_over:
            told.append(f"{_count(len(self.left_over))} left over: {some(self.left_over, SHOWN)}")
        if self.misshapen:
            shapes = [f"{name} {what}" for name, what in self.misshapen.items()]
            told.append(f"{_count(len(shapes))} of another shape: {some(shapes, SHOWN, 300)}")
        return (
            "the weights do not fit the model that config.json describes: "
            + "; ".join(told)
            + "; check that config.json and weights belong together and are complete"
            + (QUANTISED if any(name.endswith(SCALES) for name in self.left_over) else "")
        )

    def _hint(self, name: str) -> str:
        match = difflib.get_close_matches(name, self.left_over[:MAX_HINTS], n=1, cutoff=0.8)
        return f" (there is '{match[0]}')" if match else ""


def _count(count: int) -> str:
    return f"{count:,} tensor{'' if count == 1 else 's'}"
