"""llama.cpp as a peer: `llama-cpp-python` of this Python, or of the one that PENSTOCK_LLAMA_CPP_PYTHON names.

It runs in a process of its own, so that its library cannot meet ours and need not be installed beside it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class LlamaCpp:
    """Asks the worker, and waits for its answer. ``folder`` takes what is too large for a line; ``said`` its log."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        self.folder, self.said = folder, folder / "llama_cpp.log"
        with self.said.open("w") as log:
            self.process = subprocess.Popen(
                [interpreter, str(Path(__file__).with_name("llama_cpp_worker.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            )  # fmt: skip
        self.version = self._answer()["version"]

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(f"{do}: {answer['error']}\n{self.said.read_text(errors='replace')[-2000:]}")
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"llama.cpp's process ended\n{self.said.read_text(errors='replace')[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def logits(self, model: Path, prompts: Sequence[Sequence[int]]) -> list[F32]:
        """Of every token of each prompt."""
        out = self.folder / "logits.npz"
        self.ask("logits", model=str(model), prompts=[[int(i) for i in ids] for ids in prompts], out=str(out))
        with np.load(out) as arrays:
            return [arrays[f"p{i}"] for i in range(len(prompts))]

    def greedy(self, model: Path, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        asked = [[int(i) for i in ids] for ids in prompts]
        tokens: list[list[int]] = self.ask("greedy", model=str(model), prompts=asked, count=count)["tokens"]
        return tokens

    def quantize(self, model: Path, to: Path, kind: str) -> Path:
        """``kind`` as llama-quantize names it; a mixture too."""
        self.ask("quantize", model=str(model), to=str(to), type=kind)
        return to

    def tokenize(self, model: Path, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        ids: list[list[int]] = self.ask("tokenize", model=str(model), texts=list(texts), special=special)["ids"]
        return ids

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@contextmanager
def open_peer(folder: Path) -> Iterator[LlamaCpp]:
    """The peer, or a skip with the reason."""
    interpreter = os.environ.get("PENSTOCK_LLAMA_CPP_PYTHON") or sys.executable
    if interpreter == sys.executable and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("no llama-cpp-python: install it, or let PENSTOCK_LLAMA_CPP_PYTHON name a Python that has it")
    peer = LlamaCpp(interpreter, folder)
    try:
        yield peer
    finally:
        peer.close()
