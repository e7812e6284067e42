"""The page of a run: what it holds, that it is made again, and that texts in it are only texts."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.report import queries, run_page
from limbeck.report.queries import queries_of
from processes import distil_in_child

from .conftest import Finished, Invoke

SECTIONS = [
    *("results", "cost", "queries", "teacher", "doubtful", "training", "stages", "settings"),
]
EVIL = '<script>document.title = "owned"</script><img src="https://evil.example/x" onerror="x()">'
KILLED = -9
FETCHING = {"src", "srcset", "poster", "data", "action", "background", "formaction"}


class Page(HTMLParser):
    """A page's elements with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def attributes(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.elements if name in found]


@pytest.fixture(scope="module")
def evil(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on texts that would be code in a careless page."""
    folder = tmp_path_factory.mktemp("evil")
    files = made_up()
    for texts in (files.corpus, files.queries):
        for id_ in texts:
            texts[id_] += f" {EVIL}"
    data = files.write(folder / "data")
    pipeline.distill(data, **{**finished.arguments, "out": folder / "run"})
    return folder / "run"


def test_everything_is_in_the_page_and_nothing_else_is_asked_for(finished: Finished) -> None:
    text = (finished.out / "report.html").read_text()
    page = Page(text)
    assert [found for found in page.attributes("id") if found in SECTIONS] == SECTIONS
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object")]
    assert not [name for _, found in page.elements for name in found if name in FETCHING]
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert not re.search(r"@import|url\(", text)
    words = " ".join(page.words)
    for row in finished.result.rows:
        assert f"{row['nDCG@10']:.3f}" in words
    for note in finished.result.notes:
        assert note in words
    record = (finished.out / "run.toml").read_text()
    for value in re.findall(r'digest = "(\w+)"|torch = "([^"]+)"', record):
        assert "".join(value) in words
    for stage in finished.out.glob("stages/train-*"):
        assert stage.name in words
        assert (stage / "curves.json").exists()
    assert "Loss: kl" in words
    test = list(made_up().qrels["test"])
    assert [word for word in page.words if word in map(made_up().queries.get, test)]


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished.out / "report.html").read_bytes()
    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    arguments = {**finished.arguments, "out": tmp_path / "run"}
    assert pipeline.distill(finished.data, **arguments).rows == finished.result.rows
    assert (tmp_path / "run" / "report.html").read_bytes() == before


@pytest.mark.slow
def test_killed_while_the_page_is_written(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    (out / "report.html").unlink()
    arguments = {**finished.arguments, "data": finished.data, "out": out}
    assert distil_in_child(arguments, tmp_path / "ledger", kill_at="page:1") == KILLED
    assert not (out / "report.html").exists()
    assert distil_in_child(arguments, tmp_path / "ledger") == 0
    page = (finished.out / "report.html").read_bytes()
    assert (out / "report.html").read_bytes() == page
    assert not list(out.glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("gone", [True, False])
def test_without_its_data_a_finished_run_still_gets_a_page(
    finished: Finished, tmp_path: Path, invoke: Invoke, gone: bool
) -> None:
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished.out, out)
    (out / "report.html").unlink()
    if not gone:
        made_up(passages=61).write(data)
    record = out / "run.toml"
    record.write_text(record.read_text().replace(str(finished.data), str(data)))
    arguments = {**finished.arguments, "out": out}
    assert pipeline.distill(data, **arguments).rows == finished.result.rows
    text = (out / "report.html").read_text()
    assert "texts are left out" in text
    assert f'<summary dir="auto">{next(iter(made_up().qrels["test"]))}</summary>' in text


@pytest.mark.slow
def test_texts_are_never_code(evil: Path) -> None:
    text = (evil / "report.html").read_text()
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert EVIL in " ".join(page.words)
    assert EVIL not in text


def test_wins_and_losses_by_hand(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student loses 0.5 and 0.1, wins 0.2 three times, and is equal once, whatever the order
    of a system's rows.
    """
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    table = pl.read_parquet(out / "per_query.parquet")
    ids = table.filter(pl.col("model") == "student")["query_id"].to_list()
    figures = {
        "student": dict(zip(ids, [0.5, 0.4, 0.5, 0.7, 0.6, 0.3], strict=True)),
        "teacher": dict(zip(ids, [0.5, 0.5, 1.0, 0.5, 0.4, 0.1], strict=True)),
    }
    frames = [
        table.filter(pl.col("model") == model)
        .with_columns(
            pl.col("query_id").replace_strict(values, return_dtype=pl.Float64).alias("nDCG@10")
        )
        .sort("query_id", descending=model == "teacher")
        for model, values in figures.items()
    ]
    pl.concat(frames).write_parquet(out / "per_query.parquet")
    found = queries_of(out, None, RETRIEVAL)
    assert found is not None
    [outcome] = found.outcomes
    assert (outcome.other, outcome.won, outcome.equal, outcome.lost) == ("teacher", 3, 1, 2)
    shown = [row.query for row in found.rows]
    assert shown[:3] == [ids[2], ids[1], ids[0]]
    assert found.rows[0].values_of == {"student": 0.5, "teacher": 1.0}
    monkeypatch.setattr(queries, "MAX_QUERIES", 2)
    few = queries_of(out, None, RETRIEVAL)
    assert few is not None
    assert (few.rows[0].query, len(few.rows), few.queries) == (ids[2], 2, 6)
    assert few.rows[1].query in ids[3:]  # by 0.2, more than the other loss


def test_what_an_older_run_did_not_record_is_left_out(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    (out / "stages" / "diagnose" / "scores.parquet").unlink()
    found = json.loads((out / "metrics.json").read_text())
    for row in found["rows"]:
        row.pop("student_minus_this_ci", None)
        row.pop("visible", None)
    (out / "metrics.json").write_text(json.dumps(found))
    text = run_page(out, None)
    assert "before scores of the examination were kept" in text
    assert "Student - system" not in text


def test_a_comparison_is_a_page_too(finished: Finished, tmp_path: Path, invoke: Invoke) -> None:
    other = tmp_path / "<b>other"
    shutil.copytree(finished.out, other, ignore=shutil.ignore_patterns("stages", "student"))
    page = tmp_path / "compared.html"
    answer = invoke("compare", finished.out, other, "--html", page)
    assert answer.exit_code == 0, answer.output
    text = page.read_text()
    assert "<b>" not in text
    assert "Smallest visible difference" in text
    refused = invoke("compare", finished.out, other, "--html", tmp_path)
    assert refused.exit_code == 2


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window, such as Debian's packages chromium and chromium-driver."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        assert not os.environ.get("CI"), "the browser's test is never skipped there"
        pytest.skip("it needs chromium and chromedriver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        # tall: newer browsers do not scroll to a button whose edge is in sight
        *("hide-scrollbars", "window-size=1280,3000", f"user-data-dir={tmp_path / 'profile'}"),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(programs[1])))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.slow
def test_a_browser_shows_it_and_filters(evil: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    def shown() -> list[list[str]]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#query-table tbody tr:not([hidden])")
        cells = [row.find_elements(By.CSS_SELECTOR, "th, td") for row in rows]
        return [[cell.text for cell in row] for row in cells]

    def column(number: int) -> list[float]:
        return [float(row[number]) for row in shown()]

    browser.get((evil / "report.html").as_uri())
    assert browser.title == "Limbeck: data, kl"
    for section in SECTIONS:
        assert browser.find_element(By.ID, section).is_displayed()
    everyone = shown()
    assert len(everyone) == 6
    assert column(1) == sorted(column(1))
    search = browser.find_element(By.ID, "query-search")
    word = everyone[2][0].split()[0]
    search.send_keys(word.upper())
    found = shown()
    assert found
    assert everyone[2] in found
    search.clear()
    search.send_keys("in no text")
    assert shown() == []
    search.clear()
    search.send_keys(" ")
    Select(browser.find_element(By.ID, "query-against")).select_by_visible_text("BM25")
    heads = browser.find_elements(By.CSS_SELECTOR, "#query-table thead th")
    assert heads[1].text.startswith("student - BM25")
    for row in shown():
        assert float(row[1]) == pytest.approx(float(row[2]) - float(row[3]), abs=1e-6)
    outcome = Select(browser.find_element(By.ID, "query-outcome"))
    counts = {}
    for kind in ("lost", "won", "equal"):
        outcome.select_by_value(kind)
        counts[kind] = column(1)
        assert all((value < 0) == (kind == "lost") for value in counts[kind])
    assert sum(map(len, counts.values())) == 6
    assert counts["lost"]
    outcome.select_by_value("all")
    heads[1].find_element(By.TAG_NAME, "button").click()
    assert column(1) == sorted(column(1))
    heads[1].find_element(By.TAG_NAME, "button").click()
    assert column(1) == sorted(column(1), reverse=True)
    browser.find_element(By.CSS_SELECTOR, "#query-table summary").click()
    assert EVIL in browser.find_element(By.CSS_SELECTOR, "#query-table details[open] li p").text
    colours = []
    for scheme in ("light", "dark"):
        preferred = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        body = browser.find_element(By.TAG_NAME, "body")
        colours.append(body.value_of_css_property("background-color"))
    assert colours[0] != colours[1]
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.title == "Limbeck: data, kl"
    assert browser.get_log("browser") == []
