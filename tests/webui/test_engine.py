"""The live page of the engine."""

from __future__ import annotations

import re

import pytest

from tests.server.harness import Raw
from tests.webui.conftest import picture, until


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_engine_at_work(opened, site, slowly, language):
    page = opened(language, height=1100)
    page.click(".engine-link")
    page.wait_for_selector("canvas[data-blocks]")
    assert page.inner_text(".badge") == {"en": "idle", "zh": "空闲"}[language]
    chats = [Raw(site.port) for _ in range(3)]
    for chat in chats:
        body = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True}
        chat.ask("POST", "/v1/completions", body)
    until(page, "document.querySelector('.tile strong').innerText === '3'")
    page.wait_for_selector(".badge.working")
    until(page, "/^(held|占用) [1-9]/.test(document.querySelector('canvas[data-blocks]').dataset.blocks)")
    page.wait_for_timeout(1100)
    speed = page.locator(".tile strong").nth(2).inner_text().replace(",", "")
    assert float(speed) > 0
    picture(page, f"engine-{language}")
    for chat in chats:
        chat.socket.close()
    page.wait_for_selector(".badge.idle")
    assert page.locator(".uplot canvas").count() == 4
    lit = page.evaluate("""() => {
        const board = document.querySelector('canvas[data-blocks]');
        const data = board.getContext('2d').getImageData(0, 0, board.width, board.height).data;
        return data.some((v, i) => i % 4 === 3 && v > 0);
    }""")
    assert lit
    assert re.search(r"p50\s+p90\s+p99", page.inner_text(".numbers"))


def test_it_says_when_the_server_does_not_answer(opened, complaints):
    page = opened()
    page.click(".engine-link")
    page.wait_for_selector("canvas[data-blocks]")
    page.route("**/page/stats", lambda route: route.abort())
    page.wait_for_selector(".badge.stalled")
    page.unroute("**/page/stats")
    page.wait_for_selector(".badge.idle")
    complaints.clear()


def test_charts_go_on_after_a_visit_elsewhere(opened):
    page = opened()
    page.click(".engine-link")
    page.wait_for_selector("canvas[data-blocks]")
    page.goto(page.url.replace("#/engine", "#/"))
    page.wait_for_selector("h1:has-text('How can I')")
    page.click(".engine-link")
    page.wait_for_selector(".uplot")
