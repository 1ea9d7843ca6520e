"""Talking with the embedded model through the page, in both languages."""

from __future__ import annotations

import re
import time

import pytest

from tests.webui.conftest import answered, answering, ask, picture, until

WORDS = {
    "en": {
        "greeting": "How can I help you?", "question": "What is the capital of France?", "answer": "Paris",
        "panel": "Parameters", "length": "Max length", "again": "Answer again", "edit": "Edit", "stop": "Stop",
        "speed": "tokens/s", "ended": "Stopped at the max length", "continue": "Continue", "halted": "Stopped by you",
        "system": "System prompt", "save": "Save and send", "previous": "Previous version",
    },
    "zh": {
        "greeting": "有什么可以帮您的？", "question": "法国的首都是哪里？", "answer": "巴黎",
        "panel": "参数", "length": "最大长度", "again": "重新回答", "edit": "编辑", "stop": "停止",
        "speed": "token/秒", "ended": "已达最大长度", "continue": "继续", "halted": "已由您停止",
        "system": "系统提示词", "save": "保存并发送", "previous": "上一个版本",
    },
}  # fmt: skip


@pytest.fixture(params=["en", "zh"])
def language(request):
    return request.param


@pytest.fixture
def words(language):
    return WORDS[language]


def test_a_first_chat(opened, language, words):
    page = opened(language)
    assert page.inner_text("h1") == words["greeting"]
    assert page.evaluate("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
    picture(page, f"greeting-{language}")
    ask(page, words["question"])
    answer = answered(page)
    assert words["answer"] in answer.inner_text()
    figures = answer.locator("[data-figures]").inner_text()
    assert words["speed"] in figures and re.search(r"\d m?s\b", figures) and "%" in figures
    assert re.search(r"\d+ / 1,024", page.inner_text(".meter"))
    assert page.locator(".entry.on").inner_text().startswith(words["question"][:10])
    assert "#/c/" in page.url
    picture(page, f"chat-{language}")


def test_max_length_is_obeyed(opened, site, words, language):
    page = opened(language)
    page.click(f"button[aria-label={words['panel']}]")
    slider = page.get_by_role("slider", name=words["length"])
    slider.focus()
    for key, tokens in (("Home", 1), *(("ArrowRight", n) for n in range(2, 6))):
        slider.press(key)
        until(page, f"document.querySelector('[data-param=max_tokens] input.number').value === '{tokens}'")
    with page.expect_response("**/v1/chat/completions") as response:
        ask(page, {"en": "Tell me a story", "zh": "讲一个小故事"}[language])
    assert response.value.request.post_data_json["max_tokens"] == 5
    figures = answered(page).locator("[data-figures]").inner_text()
    assert words["ended"] in figures and re.search(r"\b5 (tokens|个)", figures)
    before = page.locator(".message.assistant .markdown").inner_text()
    page.get_by_text(words["continue"], exact=True).click()
    until(page, "old => document.querySelector('.message.assistant .markdown').innerText.length > old.length", before)
    assert answered(page).locator(".markdown").inner_text().startswith(before)


def test_every_parameter_reaches_the_server(opened, words, language):
    page = opened(language)
    asked = answering(page, "ok")
    page.keyboard.press("Control+.")
    page.fill(".panel textarea >> nth=0", "Be brief.")
    wanted = {
        "max_tokens": 64, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "typical_p": 0.8,
        "repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.3, "seed": 42,
    }  # fmt: skip
    for name, value in wanted.items():
        page.fill(f"[data-param={name}] input.number", str(value))
    page.fill("[data-param=stop] textarea", "END\n\n。")
    ask(page, "hello")
    answered(page)
    (body,) = asked
    assert {k: body[k] for k in wanted} == wanted and body["stop"] == ["END", "。"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    picture(page, f"panel-{language}")
    page.locator(".panel-head .button").click()
    ask(page, "again")
    answered(page)
    assert not set(wanted) & set(asked[1])


def test_a_number_out_of_range_is_marked_and_not_sent(opened):
    page = opened()
    asked = answering(page, "ok")
    page.keyboard.press("Control+.")
    page.fill("[data-param=temperature] input.number", "9")
    assert page.get_attribute("[data-param=temperature] input.number", "aria-invalid") == "true"
    ask(page, "hello")
    answered(page)
    assert "temperature" not in asked[0]


def test_regenerate_and_edit_make_branches(opened, words, language):
    page = opened(language)
    asked = answering(page, "one")
    ask(page, "first")
    answered(page).get_by_role("button", name=words["again"]).click()
    page.wait_for_selector("text=2/2")
    page.locator(".message.user").hover()
    page.get_by_role("button", name=words["edit"], exact=True).click()
    page.fill(".editor textarea", "second")
    page.press(".editor textarea", "Enter")
    until(page, "document.querySelector('.bubble')?.innerText === 'second'")
    answered(page)
    assert asked[-1]["messages"] == [{"role": "user", "content": "second"}]
    assert page.locator(".message.user .switcher").inner_text().strip() == "2/2"
    page.locator(".message.user").get_by_role("button", name=words["previous"]).click()
    assert page.inner_text(".bubble") == "first"
    assert page.locator(".message.assistant .switcher").inner_text().strip() == "2/2"


def test_escape_and_button_stop_the_answer(opened, site, slowly, words, language):
    page = opened(language)

    def endless(route):
        route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True})

    page.route("**/v1/chat/completions", endless)
    ask(page, words["question"])
    page.wait_for_selector(".message.assistant .markdown")
    page.keyboard.press("Escape")
    figures = answered(page).locator("[data-figures]").inner_text()
    assert words["halted"] in figures and "≈" in figures
    ask(page, words["question"])
    until(page, "document.querySelectorAll('.message.assistant .markdown').length === 2")
    page.get_by_role("button", name=words["stop"], exact=True).click()
    answered(page)
    deadline = time.monotonic() + 10
    while site.stats.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.stats.running == 0


def test_typing(opened):
    page = opened()
    asked = answering(page, "ok")
    page.click("#composer")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert not asked
    page.dispatch_event("#composer", "keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert not asked
    page.keyboard.press("Enter")
    answered(page)
    assert asked[0]["messages"][-1]["content"] == "one\ntwo"
    page.focus("#composer")
    page.keyboard.press("ArrowUp")
    assert page.input_value(".editor textarea") == "one\ntwo"
    page.keyboard.press("Escape")
    assert page.locator(".editor").count() == 0
    page.keyboard.press("Control+/")
    assert page.get_by_role("dialog").inner_text().startswith("Keyboard")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+O")
    page.wait_for_selector("h1")


def test_thoughts_are_folded(opened):
    page = opened()

    def answer(route):
        body = (
            'data: {"choices":[{"delta":{"reasoning_content":"let me see"}}]}\n\n'
            'data: {"choices":[{"delta":{"content":"four"}}]}\n\n'
            'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", answer)
    ask(page, "2+2")
    text = answered(page)
    assert not text.get_by_text("let me see").is_visible()
    text.get_by_text("Thoughts").click()
    assert text.get_by_text("let me see").is_visible()


def test_models_and_adapters_can_be_chosen(opened):
    page = opened()
    cards = [
        {"id": "base", "parent": None, "max_model_len": 2048},
        {"id": "poet", "parent": "base", "max_model_len": 9},
    ]
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": cards}))
    asked = answering(page, "ok")
    page.reload()
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="poet").click()
    ask(page, "hello")
    answered(page)
    assert asked[0]["model"] == "poet"
    assert page.inner_text(".model-name") == "poet"
