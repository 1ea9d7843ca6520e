"""The lines of both READMEs that show a client of each dialect do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import AsyncLLM
from tests.server.harness import EXECUTOR, Server

ROOT = Path(__file__).parents[2]
DIALECTS = 6
RUNNERS = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"]}


def block(readme: str, language: str) -> str:
    """The code of a language under the heading of that section."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    section = re.split(r"^#### ", text, flags=re.MULTILINE)[1]
    found = re.search(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{readme} has no {language} under its heading"
    return found[1]


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    llm = AsyncLLM(executor=EXECUTOR, kv_cache_memory=1 << 24, threads=1)
    with Server(llm) as server:
        yield server
    llm.close()


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
@pytest.mark.parametrize("language", list(RUNNERS))
def test_each_line_is_answered(demo, readme, language):
    command, code = RUNNERS[language], block(readme, language)
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if language == "python":
        for name in code.splitlines()[0].removeprefix("import ").split(", "):
            pytest.importorskip(name)
    code = code.replace("http://127.0.0.1:8000", demo.url)
    assert demo.url in code
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "NO_PROXY": "*",
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    said = [line for line in done.stdout.splitlines() if line.strip()]
    assert len(said) >= DIALECTS and all("error" not in line.lower() for line in said), said
    assert "Hello" in done.stdout, "what it says to Hi"


def test_both_readmes_show_the_same_lines():
    for language in RUNNERS:
        assert block("README.md", language) == block("README.zh-CN.md", language)
