"""The chat page in a real browser: Debian's chromium, driven by playwright."""

import dataclasses
import importlib.util
import json
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import httpx
import pytest
import serve_parts as parts
from serve_parts import Hosted

from wren.generate import Request

CHROMIUM = shutil.which("chromium")
INSTALLED = importlib.util.find_spec("playwright") is not None
in_browser = pytest.mark.skipif(not (CHROMIUM and INSTALLED), reason="needs playwright and Debian's chromium")


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with parts.hosted(parts.loaded(), max_tokens=300) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(server: Hosted, browser: Any) -> Iterator[Any]:
    """An open page; what the browser complains about fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    opened, complaints = context.new_page(), []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(server.url)
    opened.wait_for_selector("#model small")
    yield opened
    context.close()
    assert [text for text in complaints if "status of 400" not in text] == []


def eventually(page: Any, expression: str) -> None:
    """Waits until it is true; wait_for_function would need eval, which the page forbids."""
    parts.wait_until(lambda: page.evaluate(expression))


def say(page: Any, text: str) -> None:
    page.fill("#draft", text)
    page.keyboard.press("Enter")


def answered(page: Any, count: int) -> list[str]:
    """Waits for so many whole answers; their texts."""
    page.wait_for_selector("#send:not([hidden])", state="attached")
    found = [each.text_content() for each in page.query_selector_all(".turn.assistant .body")]
    assert len(found) == count
    return found


def settle(page: Any, **values: str) -> None:
    """Opens the settings by key, writes, and closes them by key."""
    page.keyboard.press("Alt+s")
    page.wait_for_selector("#settings[open]")
    for name, value in values.items():
        page.fill(f"#{name}", value)
    page.keyboard.press("Escape")
    page.wait_for_selector("#settings:not([open])", state="attached")


@in_browser
def test_a_conversation_streams_and_is_kept(page: Any):
    assert page.text_content("#model").startswith("tiny")
    settle(page, seed="3", max_tokens="20", system="Be brief.")
    say(page, "What is the colour of the sky?")
    (first,) = answered(page, 1)
    assert page.text_content(".turn.system .body") == "Be brief."
    assert "token" in page.text_content(".turn.assistant .tools")
    say(page, "And <b>the sea</b>?")
    answered(page, 2)
    users = [each.text_content() for each in page.query_selector_all(".turn.user .body")]
    assert users == ["What is the colour of the sky?", "And <b>the sea</b>?"]
    page.reload()
    assert answered(page, 2)[0] == first
    page.keyboard.press("Alt+n")
    assert answered(page, 0) == []
    assert len(page.query_selector_all("#list li")) == 2
    page.keyboard.press("Alt+ArrowDown")
    assert answered(page, 2)[0] == first
    page.click("#list li.current .remove")
    assert answered(page, 0) == []


@in_browser
def test_stop_and_answer_anew(server: Hosted, page: Any):
    engine = server.serving.worker.engine
    step, submit = engine.step, engine.submit

    def slow() -> Any:
        time.sleep(0.03)
        return step()

    def endless(request: Request) -> Any:
        return submit(dataclasses.replace(request, bias=dict.fromkeys(parts.SPECIAL, -100.0)))

    engine.step, engine.submit = slow, endless  # type: ignore[method-assign]
    say(page, "Go on and on.")
    eventually(page, "document.querySelector('.writing .body')?.textContent.length > 2")
    before = server.metric("cancelled_requests_total")
    page.keyboard.press("Escape")
    (said,) = answered(page, 1)
    assert said
    assert page.text_content(".turn.assistant .tools").endswith("stopped")
    server.until("cancelled_requests_total", before + 1)
    server.until("decoding_rows", 0)
    engine.step, engine.submit = step, submit  # type: ignore[method-assign]
    settle(page, max_tokens="10")
    page.keyboard.press("Alt+r")
    answered(page, 1)
    assert "stopped" not in page.text_content(".turn.assistant .tools")
    page.hover(".turn.user")
    page.click("text=Edit")
    assert page.input_value("#draft") == "Go on and on."
    assert answered(page, 0) == []


@in_browser
def test_errors_are_shown_and_can_be_mended(page: Any):
    settle(page, max_tokens="500")
    say(page, "Hello")
    page.wait_for_selector(".turn.error")
    assert "at most 300" in page.text_content(".turn.error .body")
    settle(page, max_tokens="5")
    page.keyboard.press("Alt+r")
    answered(page, 1)
    assert page.query_selector(".turn.error") is None


@in_browser
@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_follows_the_colours(server: Hosted, browser: Any, width: int):
    context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.keyboard.press("Alt+d")
    assert page.evaluate(colour) != dark
    settle(page, max_tokens="60", seed="1")
    say(page, "long" * 60)
    answered(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth")
    if width == 375:
        assert not page.is_visible("#side")
        page.click("#menu")
        eventually(page, "getComputedStyle(document.getElementById('side')).visibility === 'visible'")
        page.keyboard.press("Escape")
        eventually(page, "getComputedStyle(document.getElementById('side')).visibility === 'hidden'")
    page.reload()
    assert page.evaluate(colour) != dark  # the choice is kept
    context.close()


@in_browser
def test_the_words_of_a_model_are_never_html(page: Any):
    code = (
        "import('/text.js').then(({write}) => "
        "{ const made = document.createElement('div'); write(made, %s); return made.innerHTML; })"
    )
    text = "a **b** `<i>`\n```py\nx < 1\n```\nend <script>alert(1)</script>"
    found = page.evaluate(code % json.dumps(text))
    assert found == (
        "a <strong>b</strong> <code>&lt;i&gt;</code>\n<pre><code>x &lt; 1</code></pre>"
        "end &lt;script&gt;alert(1)&lt;/script&gt;"
    )


class _Parts(HTMLParser):
    """What a page loads, and what has an id."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.buttons: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [str(found[name]) for name in ("src", "href") if found.get(name)]
        self.ids += [str(found["id"])] if "id" in found else []
        assert not any(name.startswith("on") or name == "style" for name in found), (tag, found)


def test_the_page_loads_nothing_from_elsewhere(server: Hosted):
    found = httpx.get(server.url)
    assert found.headers["content-security-policy"].startswith("default-src 'self'")
    page = _Parts()
    page.feed(found.text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.loads:
        assert link.startswith(("/", "#"))
        if link.startswith("/"):
            assert httpx.get(f"{server.url}{link}").status_code == 200
        else:
            assert link[1:] in page.ids
    for file in resources.files("wren.serve").joinpath("page").iterdir():
        text = file.read_text(encoding="utf-8")
        links = set(re.findall(r"https?://[^\s\"')]+", text)) - {"http://www.w3.org/2000/svg"}
        assert links == set()
        for name in re.findall(r"from \"\./(\w+\.js)\"", text):
            assert httpx.get(f"{server.url}/{name}").headers["content-type"].startswith("text/javascript")
