"""Promises about the project as a whole: what an import loads, what the repository may hold."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.footprint import footprint
from tests.helpers import DATA, REPOSITORY

MEGABYTE = 1_000_000
# Each of these costs tens of milliseconds or more: importing penstock, or asking for help, must not pay for them.
HEAVY = {
    "torch", "transformers", "triton", "tokenizers", "sentencepiece", "tiktoken", "jinja2", "huggingface_hub",
    "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "rich", "prompt_toolkit", "safetensors",
    "requests", "httpx", "asyncio", "ml_dtypes",
}  # fmt: skip


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that ``python <arguments>`` loads; it must end well."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


def tracked_files() -> list[Path]:
    """Files that a commit would hold, without the fixtures."""
    try:
        listing = subprocess.run(
            ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: cannot tell the project's files from others")
    paths = [REPOSITORY / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and DATA not in path.parents]


def test_importing_penstock_loads_no_heavy_library() -> None:
    loaded = loaded_by("-c", "import penstock")
    assert "penstock" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["chat", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    assert loaded_by("-m", "penstock", *arguments) & HEAVY == set()


def test_the_version_has_one_home() -> None:
    penstock, native = (importlib.import_module(name) for name in ("penstock", "penstock._native"))
    assert penstock.__version__ == native.__version__ == importlib.metadata.version("penstock")


def test_core_dependencies_name_no_heavy_framework() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in project["dependencies"]}
    assert "numpy" in names
    assert names & {"torch", "transformers", "triton", "ray", "modelscope", "accelerate", "nanobind"} == set()


def test_no_file_names_a_private_place_or_holds_a_secret() -> None:
    patterns = {
        "a path of someone's machine": r"(?<![\w.:/~$}-])/(?:home|root|Users|work|workspace|builds)/\w",
        "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
        "a token": r"\b(?:hf_[A-Za-z]{34}|sk-[A-Za-z0-9]{40,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36})\b",
    }
    faults = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in patterns.items():
            faults += [f"{path.relative_to(REPOSITORY)}: {what}: {found}" for found in re.findall(pattern, text)]
    assert faults == []


def test_data_stays_small() -> None:
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    assert size(DATA) < 20 * MEGABYTE
    assert size(REPOSITORY / "src" / "penstock" / "demo_model") < 10 * MEGABYTE


def test_the_core_install_stays_small() -> None:
    table = footprint()
    assert "numpy" in table
    assert "torch" not in table
    assert sum(map(sum, table.values())) < 150 * MEGABYTE, table
