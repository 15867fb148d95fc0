"""The report as a reader meets it: in a browser, wide and narrow, light and dark, without a network."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strata.report import write_report

pytestmark = pytest.mark.browser

RUNS: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "report" / "fake_runs.py"))["ALL"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(make(folder / name)).as_uri() for name, make in RUNS.items()}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", RUNS)
def test_a_report_fits_its_window_and_asks_for_nothing(
    browser: Any, reports: dict[str, str], name: str, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(reports[name])
    assert [url for url in asked if not url.startswith("data:")] == [reports[name]]
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.close()


def test_charts_follow_the_colour_scheme_of_the_reader(browser: Any, reports: dict[str, str]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(reports["classifier"])
        colours[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#curves svg text')).fill]"
        )
        page.close()
    assert colours["light"][0] != colours["dark"][0]
    assert colours["light"][1] != colours["dark"][1]


def test_every_link_of_the_contents_leads_to_a_section(browser: Any, reports: dict[str, str]) -> None:
    page = browser.new_page()
    page.goto(reports["gpt"])
    missing = (
        "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    )
    assert page.evaluate(missing) == 0
    page.close()


def test_text_can_be_read_on_a_phone(browser: Any, reports: dict[str, str]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(reports["classifier"])
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.charts svg text')].map("
        "text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.clientWidth"
        " / text.ownerSVGElement.viewBox.baseVal.width))"
    )
    assert smallest >= 9
    page.close()
