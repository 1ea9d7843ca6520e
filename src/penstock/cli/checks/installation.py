"""The installation: Python, libraries, the native extension, the embedded model, the environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Iterator

from penstock._version import __version__
from penstock.cli.checks.finding import Finding, fail, ok, warn
from penstock.errors import nearest

OPTIONAL = {
    "torch": ("the torch executor", "pip install torch"),
    "triton": ("CUDA kernels", "pip install 'penstock[cuda]'"),
    "modelscope": ("downloads from modelscope.cn", "pip install modelscope"),
}
UNITS = {
    "read_gbs": ("memory reads", "GB/s"),
    "f32_gflops": ("f32", "GFLOP/s"),
    "bf16_gflops": ("bf16", "GFLOP/s"),
    "int8_gops": ("int8", "Gop/s"),
}
"""What the extension's probe measures."""
OTHER_VARIABLES = frozenset({
    "PENSTOCK_DEBUG", "PENSTOCK_API_KEY", "PENSTOCK_HOST", "PENSTOCK_PORT", "PENSTOCK_USE_MODELSCOPE",
    "PENSTOCK_SHARED", "PENSTOCK_PIN",
})  # fmt: skip


def versions() -> Iterator[Finding]:
    text = f"penstock {__version__}, Python {platform.python_version()} in {sys.prefix}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        yield warn("version", text, "use Python 3.11, 3.12 or 3.13")
    else:
        yield ok("version", text)


def libraries() -> Iterator[Finding]:
    """Everything that penstock declares it needs, then what it can use besides."""
    absent = []
    for line in _requirements():
        name = line.partition(";")[0].split()[0]
        for sign in "<>=!~[(":
            name = name.partition(sign)[0]
        if _version(name) is None:
            absent.append(name)
    if absent:
        yield fail("libraries", f"missing: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    else:
        yield ok("libraries", "all that are needed are installed")
    found = {name: _version(name) for name in OPTIONAL}
    have = [f"{name} {version}" for name, version in found.items() if version]
    lack = [f"{name} ({OPTIONAL[name][0]}: {OPTIONAL[name][1]})" for name, version in found.items() if not version]
    yield ok("optional", "; ".join((*have, *(f"no {text}" for text in lack))))


def native() -> Iterator[Finding]:
    """The extension: is it there, what does it choose, what can the machine do."""
    remedy = "reinstall penstock: pip install --force-reinstall --no-deps penstock (in a checkout: scripts/build)"
    try:
        from penstock import _native
    except ImportError as error:
        yield fail("native", f"the extension does not load: {error}", remedy)
        return
    version = getattr(_native, "__version__", "?")
    if version != __version__:
        yield warn("native", f"the extension is of version {version}, penstock of {__version__}", remedy)
    else:
        yield ok("native", f"extension {version}")
    yield from _probe(getattr(_native, "probe", None))


def embedded() -> Iterator[Finding]:
    """The embedded model answers: loading, tokenizer, kernels and sampling work together."""
    from penstock.assemble import EMBEDDED

    if not (EMBEDDED / "config.json").is_file():
        yield fail("self-test", "the embedded model is not there", "reinstall penstock")
        return
    try:
        from penstock.llm import LLM
        from penstock.types import SamplingParams

        started = time.monotonic()
        with LLM() as llm:
            output = llm.generate("The capital of France is", SamplingParams(temperature=0.0, max_tokens=8))[0]
            info = llm.model.executor.info
        seconds = time.monotonic() - started
    except Exception as error:
        yield fail("self-test", f"the embedded model fails: {error}", "penstock generate hello --debug shows where")
        return
    if not output.outputs[0].token_ids:
        yield fail("self-test", "the embedded model gives no token", "reinstall penstock")
        return
    yield ok("self-test", f"the embedded model answers on {info.name} {info.isa}, {info.threads} threads "
                          f"({seconds:.2f} s with loading)")  # fmt: skip


def environment(known: frozenset[str]) -> Iterator[Finding]:
    """``PENSTOCK_…`` variables; ``known`` are those of engine options."""
    names = known | OTHER_VARIABLES
    for variable in sorted(v for v in os.environ if v.startswith("PENSTOCK_")):
        if variable not in names:
            yield warn("environment", f"{variable} is not a variable that penstock reads{nearest(variable, names)}",
                       f"unset {variable}, or correct its name")  # fmt: skip
    have = sorted(v for v in os.environ if v in known)
    if have:
        yield ok("environment", ", ".join(f"{v}={os.environ[v]}" for v in have))


def _probe(probe: object) -> Iterator[Finding]:
    if not callable(probe):
        return
    try:
        measured = probe()
    except Exception as error:
        yield warn("speed", f"cannot be measured: {error}", "run penstock doctor --debug")
        return
    if isinstance(measured, dict) and set(UNITS) <= set(measured):
        figures = ", ".join(f"{what} {measured[name]:.4g} {unit}" for name, (what, unit) in UNITS.items())
        yield ok("speed", f"{figures} ({measured.get('isa', '?')}, {measured.get('threads', '?')} threads)")
    elif isinstance(measured, dict):
        yield ok("speed", ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                                    for name, value in measured.items()))  # fmt: skip
    else:
        yield ok("speed", str(measured))


def _requirements() -> list[str]:
    try:
        return [line for line in importlib.metadata.requires("penstock") or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
