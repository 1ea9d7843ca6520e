"""Chats that stay in the browser: search, rename, delete, export, import, settings; and a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.webui.conftest import answered, answering, ask, picture, until

AT_END = """(() => {
    const box = document.querySelector(".scroll");
    return box.scrollHeight - box.scrollTop - box.clientHeight < 50;
})()"""


@pytest.fixture
def page(opened):
    found = opened()
    answering(found, "an answer about rivers")
    for text in ("alpha question", "beta question"):
        ask(found, text)
        answered(found)
        found.keyboard.press("Control+Shift+O")
        found.wait_for_selector("h1")
    return found


def _titles(page: Any) -> list[str]:
    found: list[str] = page.locator(".entry a").all_inner_texts()
    return found


def test_chats_are_there_after_a_reload(page):
    page.reload()
    page.wait_for_selector(".entry")
    assert _titles(page) == ["beta question", "alpha question"]
    page.click("text=alpha question")
    page.wait_for_selector(".message.assistant")
    assert "rivers" in page.inner_text(".message.assistant")
    address = page.url
    page.reload()
    page.wait_for_selector(".message.assistant")
    assert page.url == address


def test_search_rename_delete(page):
    page.keyboard.press("Control+k")
    until(page, "document.activeElement?.hasAttribute('data-search')")
    page.keyboard.type("alpha rivers")
    until(page, "document.querySelectorAll('.entry').length === 1")
    assert _titles(page) == ["alpha question"]
    page.fill("[data-search]", "nowhere")
    assert "No chat has these words" in page.inner_text(".history")
    page.fill("[data-search]", "")
    page.locator(".entry").first.hover()
    page.locator(".entry button").first.click()
    page.get_by_role("menuitem", name="Rename").click()
    page.fill(".entry input", "Gamma")
    page.press(".entry input", "Enter")
    until(page, "document.querySelector('.entry a')?.innerText === 'Gamma'")
    page.locator(".entry").first.hover()
    page.locator(".entry button").first.click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    until(page, "document.querySelectorAll('.entry').length === 1")
    page.reload()
    page.wait_for_selector(".entry")
    assert _titles(page) == ["alpha question"]


def test_export_and_import_bring_chats_to_another_browser(page, opened, tmp_path: Path):
    page.get_by_role("button", name="Menu").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Export all chats").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(str(file))
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["format"] == "penstock-chats" and len(kept["chats"]) == 2
    other = opened("zh")
    other.set_input_files("input[type=file]", str(file))
    other.wait_for_selector(".entry")
    assert sorted(_titles(other)) == ["alpha question", "beta question"]
    assert "2" in other.inner_text(".notice")
    other.click("text=beta question")
    other.wait_for_selector(".message.assistant")
    assert "rivers" in other.inner_text(".message.assistant")


def test_two_tabs_see_the_same(page):
    other = page.context.new_page()
    other.goto(page.url.partition("#")[0])
    other.wait_for_selector(".entry")
    page.bring_to_front()
    answering(page, "from the first tab")
    page.click("text=alpha question")
    ask(page, "more")
    answered(page)
    other.bring_to_front()
    other.click("text=alpha question")
    other.wait_for_selector("text=from the first tab")
    page.bring_to_front()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("menuitem", name="Delete all").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    until(other, "document.querySelectorAll('.entry').length === 0")


def test_delete_all(page):
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("menuitem", name="Delete all").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    until(page, "document.querySelectorAll('.entry').length === 0")


def test_language_and_colours_are_remembered(opened):
    page = opened("en", color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("menuitemradio", name="简体中文").click()
    until(page, "document.querySelector('h1').innerText === '有什么可以帮您的？'")
    page.get_by_role("menuitemradio", name="浅色").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.reload()
    page.wait_for_selector("h1")
    assert page.inner_text("h1") == "有什么可以帮您的？"
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_phone(opened, language):
    page = opened(language, width=390, height=780, is_mobile=True, has_touch=True)
    table = "|" + " head |" * 8 + "\n|" + "---|" * 8 + "\n|" + " wide cell |" * 8
    answering(page, f"{table}\n\n`{'x' * 200}`")
    ask(page, "table")
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.querySelector('.main').scrollWidth") <= 390
    assert page.locator(".sidebar").count() == 0
    picture(page, f"phone-{language}")
    page.locator(".top .icon-button").first.click()
    page.wait_for_selector(".drawer .entry")
    page.wait_for_timeout(250)
    picture(page, f"phone-menu-{language}")
    page.locator(".drawer .entry a").click()
    until(page, "!document.querySelector('.drawer')")
    page.locator(".top .icon-button").last.click()
    page.wait_for_selector(".drawer [data-param=temperature]")
    page.wait_for_timeout(250)
    picture(page, f"phone-panel-{language}")


def test_many_long_messages_stay_quick(opened):
    page = opened()
    long = "\n\n".join(f"Paragraph {i} with **bold** and `code` and words enough to wrap." for i in range(400))
    answering(page, long, pieces=40)
    ask(page, "much")
    answered(page)
    assert page.locator(".block").count() == 400
    until(page, AT_END)
    page.evaluate("document.querySelector('.scroll').scrollTop = 0")
    page.wait_for_selector(".to-end")
    page.click(".to-end")
    until(page, AT_END)
