"""The search page in a real browser: what it shows, and that it asks nobody but its server."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PASSAGES, Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not os.environ.get("CI"),
        reason="no chromium with its chromedriver here (Debian: chromium chromium-driver)",
    ),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,900"),
)
FILL = "document.getElementById('q').value = arguments[0];"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, server: Running) -> Any:
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before does not count
    browser.get(server.url)
    waited(browser, lambda: texts(browser, "#about"))
    yield browser
    complaints = [line["message"] for line in browser.get_log("browser")]
    assert complaints == []  # nothing that the policy forbids was tried, no script failed


def texts(browser: Any, selector: str) -> list[str]:
    found = browser.find_elements("css selector", selector)
    return [each.text for each in found if each.text]


def waited(browser: Any, condition: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 30, 0.05).until(lambda _: condition())


def search(browser: Any, query: str) -> None:
    browser.execute_script(FILL, query)
    browser.find_element("css selector", "button").click()
    waited(browser, lambda: texts(browser, "#student h2") and not texts(browser, "#status"))


def test_student_and_bm25_stand_side_by_side(page: Any, server: Running) -> None:
    assert texts(page, "#about") == ["here, 65 passages"]
    search(page, "the red cat")
    assert [each.split("\n")[0] for each in texts(page, "h2")] == ["Student", "BM25"]
    assert all(" ms" in each for each in texts(page, "h2"))
    asked = {"q": "the red cat", "k": 10}
    for by in ("student", "bm25"):
        found = server.client.get("/search", params={**asked, "by": by}).json()["hits"]
        assert texts(page, f"#{by} .id") == [hit["id"] for hit in found]
    boxes = [page.find_element("id", by).rect for by in ("student", "bm25")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_the_teacher_re_ranks_when_it_is_asked(page: Any, server: Running) -> None:
    page.find_element("id", "teacher").click()
    search(page, "the red cat")
    waited(page, lambda: texts(page, "#teacher h2") or len(texts(page, "h2")) == 3)
    assert len(texts(page, "section h2")) == 3
    address = page.current_url
    page.get(address)  # a search can be linked to
    waited(page, lambda: len(texts(page, "section h2")) == 3)


def test_what_passages_hold_is_shown_and_never_run(page: Any) -> None:
    search(page, "hostile onerror alert cat script")
    [shown] = [each for each in texts(page, "#bm25 li p") if "onerror" in each]
    assert shown == "<img src=x onerror=alert(1)> </script><script>alert(2)</script> cat"
    assert page.find_elements("css selector", "img") == []
    assert texts(page, "#bm25 li")


def passage(page: Any, id_: str) -> Any:
    """The text of a passage among those that BM25 found."""
    [shown] = [
        item.find_element("css selector", "p")
        for item in page.find_elements("css selector", "#bm25 li")
        if item.find_element("css selector", ".id").text == id_
    ]
    return shown


def left_edge(page: Any, text: Any, at: int) -> float:
    """Where a character of a text is shown."""
    code = """
        const range = document.createRange();
        range.setStart(arguments[0].firstChild, arguments[1]);
        range.setEnd(arguments[0].firstChild, arguments[1] + 1);
        return range.getBoundingClientRect().left;
    """
    return float(page.execute_script(code, text, at))


@pytest.mark.parametrize(("id_", "query"), [("hebrew", "חתול"), ("arabic", "القطة")])
def test_what_runs_from_right_to_left_is_shown_so(page: Any, id_: str, query: str) -> None:
    search(page, query)
    text = passage(page, id_)
    asked = page.find_element("id", "q")
    assert text.value_of_css_property("direction") == "rtl"
    assert asked.value_of_css_property("direction") == "rtl"
    last = len(PASSAGES[id_]) - 1  # a mark that is drawn at the left end, not at the right one
    assert left_edge(page, text, last) < left_edge(page, text, last - 1) < left_edge(page, text, 0)
    box, card = text.rect, page.find_element("id", "bm25").rect
    assert left_edge(page, text, 0) > box["x"] + box["width"] / 2  # it begins at the right edge
    assert box["x"] >= card["x"]
    assert box["x"] + box["width"] <= card["x"] + card["width"]
    # what stands around it keeps its direction
    ranks = page.find_elements("css selector", "#bm25 li div")
    assert all(each.value_of_css_property("direction") == "ltr" for each in ranks)


@pytest.mark.parametrize(
    ("id_", "query", "language"),
    [("chinese", "红猫在垫子上睡觉", "zh"), ("japanese", "赤い猫はマットの上で眠る", "ja")],
)
def test_what_has_no_spaces_is_broken_into_lines(
    page: Any, id_: str, query: str, language: str
) -> None:
    search(page, PASSAGES[id_] if id_ == "chinese" else query)
    text = passage(page, id_)
    assert text.get_attribute("lang") == language
    assert page.execute_script("return document.documentElement.scrollWidth") <= 1280
    wide = "return [arguments[0].scrollWidth, arguments[0].clientWidth]"
    needed, there = page.execute_script(wide, text)
    assert needed <= there


def test_a_refusal_is_told(page: Any) -> None:
    page.execute_script(FILL, "cat " * 300)
    page.find_element("css selector", "button").click()
    waited(page, lambda: texts(page, "#student.bad p"))
    [told] = texts(page, "#student.bad p")
    assert "one text may have 1,000" in told
    # that the server refused is all that the browser has to complain of
    assert all("400" in line["message"] for line in page.get_log("browser"))


def test_on_a_phone_and_in_the_dark_it_can_be_read(page: Any) -> None:
    size = page.get_window_size()
    try:
        narrow = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        search(page, "the red cat")
        wide = page.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 360
        boxes = [page.find_element("id", by).rect for by in ("student", "bm25")]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        colours = (
            "const of = getComputedStyle(document.body); return [of.color, of.backgroundColor]"
        )
        text, ground = page.execute_script(colours)
        assert sum(numbers(text)[:3]) > sum(numbers(ground)[:3]) + 300
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.set_window_size(size["width"], size["height"])


def numbers(colour: str) -> list[float]:
    """The numbers of `rgb(1, 2, 3)`."""
    return [float(part) for part in colour.partition("(")[2].rstrip(")").split(",")]


def test_it_asks_nobody_but_its_server(page: Any, server: Running) -> None:
    search(page, "the red cat")
    messages = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    asked = {
        each["params"]["request"]["url"]
        for each in messages
        if each["method"] == "Network.requestWillBeSent"
    }
    assert any("/search?" in url for url in asked)
    others = [url for url in asked if not url.startswith((server.url, "data:", "about:", "chrome"))]
    assert others == []
    policy = server.client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")


def test_a_file_of_the_package_is_shipped() -> None:
    import limbeck.serving

    assert (Path(limbeck.serving.__file__).parent / "page.html").is_file()
