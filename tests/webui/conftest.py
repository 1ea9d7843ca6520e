"""The page in Debian's chromium, on a server with the embedded model or with answers that a test makes up."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.async_llm import AsyncLLM
from tests.server.harness import Server

OTHER_HOST = "penstock.test"
"""A name of this machine that the browser does not take for it: as if the server were elsewhere."""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1",
]  # fmt: skip
PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}


def _chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in PLACES if (found := shutil.which(name))), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for all tests; skips where there is none."""
    program = _chromium()
    if program is None:
        pytest.skip("no chromium here: install it, or name it in CHROMIUM")
    api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="package")
def demo() -> Iterator[AsyncLLM]:
    """The embedded model."""
    model = AsyncLLM(threads=1, kv_cache_memory=1 << 24)
    yield model
    model.close()


class Pace:
    """An executor that takes its time over a step, so that what passes quickly can be seen; delegates the rest."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, batch: Any) -> Any:
        time.sleep(self.seconds)
        return self._executor.run(batch)


@pytest.fixture
def slowly(demo: AsyncLLM) -> Iterator[None]:
    """Steps of 30 ms: an answer of 900 tokens takes half a minute."""
    engine = demo.model.engine
    pace = Pace(engine.executor)
    pace.seconds = 0.03
    engine.executor, before = pace, engine.executor
    yield
    engine.executor = before


@pytest.fixture(scope="package")
def site(demo: AsyncLLM) -> Iterator[Server]:
    with Server(demo) as server:
        yield server


class Complaints(list[str]):
    """What the browser's console said that should worry somebody."""

    def listen(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda said: self.append(said.text) if said.type in ("error", "warning") else None)


Opener = Callable[..., Any]


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def opened(browser: Any, site: Server, complaints: Complaints) -> Iterator[Opener]:
    """``opened(language="zh", width=…)`` is a fresh page in a context of its own. Its console must stay silent, unless
    the test clears ``complaints``."""
    contexts: list[Any] = []

    def open_page(language: str = "en", width: int = 1280, height: int = 800, url: str = "", **options: Any) -> Any:
        context = browser.new_context(
            locale=LANGUAGES[language], viewport={"width": width, "height": height}, accept_downloads=True, **options
        )
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
        page = context.new_page()
        page.set_default_timeout(15_000)
        complaints.listen(page)
        page.goto(url or site.url)
        page.wait_for_selector("#composer, canvas, [role=dialog]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def answering(page: Any, text: str, *, finish: str = "stop", pieces: int = 7) -> list[Any]:
    """Let every chat of ``page`` be answered with ``text``; the bodies that were asked, as they come."""
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(status=200, content_type="text/event-stream", body=events(text, finish, pieces))

    page.route("**/v1/chat/completions", answer)
    return asked


def events(text: str, finish: str = "stop", pieces: int = 7) -> str:
    parts = [text[i : i + pieces] for i in range(0, len(text), pieces)]
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": {"content": p}, "finish_reason": None}]} for p in parts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": len(parts)}})
    return "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def ask(page: Any, text: str) -> None:
    page.fill("#composer", text)
    page.press("#composer", "Enter")


def answered(page: Any) -> Any:
    """The newest answer, when it is complete."""
    page.wait_for_selector(".message.assistant.last[aria-busy=false]")
    return page.locator(".message.assistant.last")


def until(page: Any, condition: str, argument: Any = None) -> None:
    """Waits for an expression of JavaScript; Playwright's own way needs eval, which the page's policy refuses."""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        page.wait_for_timeout(50)


def picture(page: Any, name: str) -> None:
    """Keeps a screenshot where ``SCREENSHOTS`` says, for people to look at."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
