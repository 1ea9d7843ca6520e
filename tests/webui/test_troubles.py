"""What the page says when things go wrong, and how one gets on from there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.harness import Server
from tests.webui.conftest import OTHER_HOST, answered, answering, ask, picture, until


def _failing(page: Any, status: int, code: str, **headers: str) -> None:
    body = {"error": {"message": f"because of {code}", "type": "x", "param": None, "code": code}}
    page.route("**/v1/chat/completions", lambda r: r.fulfill(status=status, json=body, headers=headers))


@pytest.mark.parametrize(
    ("language", "status", "code", "kind", "text"),
    [
        ("en", 429, "too_many_requests", "busy", "Too many requests at once"),
        ("zh", 503, "overloaded", "full", "服务器已满"),
        ("zh", 503, "shutting_down", "stopping", "服务器正在关闭"),
        ("en", 400, "context_length_exceeded", "context", "Too long for the model"),
        ("zh", 400, "context_length_exceeded", "context", "超出模型的上下文长度"),
        ("en", 500, "internal_error", "failed", "Something went wrong"),
    ],
)
def test_errors_are_told_with_a_way_on(opened, complaints, language, status, code, kind, text):
    page = opened(language)
    _failing(page, status, code)
    ask(page, "hello")
    card = page.locator(".failure")
    card.wait_for()
    assert card.get_attribute("data-kind") == kind
    assert text in card.inner_text() and f"because of {code}" in card.inner_text()
    picture(page, f"error-{kind}-{language}")
    page.unroute("**/v1/chat/completions")
    answering(page, "now it works")
    card.get_by_role("button").last.click()
    page.wait_for_selector("text=now it works")
    assert page.locator(".failure, .switcher").count() == 0
    complaints.clear()


def test_retry_waits_as_long_as_the_server_says(opened, complaints):
    page = opened()
    _failing(page, 503, "overloaded", **{"Retry-After": "2"})
    ask(page, "hello")
    button = page.locator(".failure button")
    button.wait_for()
    assert button.is_disabled() and "2 s" in button.inner_text()
    until(page, "!document.querySelector('.failure button').disabled")
    complaints.clear()


def test_a_prompt_too_long_for_the_real_context(opened, complaints):
    page = opened()
    ask(page, "word " * 2000)
    page.locator(".failure[data-kind=context]").wait_for()
    assert "1024" in page.inner_text(".failure")
    complaints.clear()


def test_a_server_that_goes_away(browser, demo, opened, complaints):
    with Server(demo) as server:
        page = opened(url=server.url)
        ask(page, "What is the capital of France?")
        answered(page)
    ask(page, "What is the capital of Spain?")
    page.locator(".failure[data-kind=unreachable]").wait_for()
    assert page.locator(".dot.unreachable").count() >= 1
    assert "Spain" in page.locator(".bubble").last.inner_text()
    complaints.clear()


def test_an_answer_that_breaks_off_keeps_what_came(opened, complaints):
    page = opened()
    chunks = ('{"choices":[{"delta":{"content":"half an"}}]}', '{"error":{"message":"a step failed"}}', "[DONE]")
    body = "".join(f"data: {chunk}\n\n" for chunk in chunks)
    page.route("**/v1/chat/completions", lambda r: r.fulfill(content_type="text/event-stream", body=body))
    ask(page, "hello")
    page.locator(".failure").wait_for()
    assert "half an" in page.inner_text(".message.assistant") and "a step failed" in page.inner_text(".failure")
    complaints.clear()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_key_is_asked_for_and_kept_in_the_tab(opened, demo, complaints, language):
    with Server(demo, api_keys=("sesame",)) as guarded:
        page = opened(language, url=guarded.url)
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        picture(page, f"key-{language}")
        page.fill("[role=dialog] input", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=dialog] [role=alert]")
        page.fill("[role=dialog] input", "sesame")
        page.keyboard.press("Enter")
        dialog.wait_for(state="detached")
        ask(page, "What is the capital of France?")
        assert "Paris" in answered(page).inner_text()
        kept = page.evaluate("[JSON.stringify(sessionStorage), JSON.stringify(localStorage)]")
        assert "sesame" in kept[0] and "sesame" not in kept[1]
        page.reload()
        page.wait_for_selector(".message.assistant")
        assert page.get_by_role("dialog").count() == 0
    complaints.clear()


def test_plain_http_from_another_machine(opened, demo, complaints):
    """Browsers keep some of their functions from such pages: names, copying."""
    with Server(demo, allowed_hosts=(OTHER_HOST,)) as server:
        page = opened(url=f"http://{OTHER_HOST}:{server.port}")
        assert page.evaluate("isSecureContext") is False
        ask(page, "What is the capital of France?")
        answer = answered(page)
        assert "Paris" in answer.inner_text()
        answer.get_by_role("button", name="Copy").click()
        answer.get_by_role("button", name="Copied").wait_for()
        page.fill("#composer", "")
        page.focus("#composer")
        page.keyboard.press("Control+v")
        assert "Paris" in page.input_value("#composer")
    complaints.clear()  # the browser says that it ignores Cross-Origin-Opener-Policy there
