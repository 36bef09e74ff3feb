"""The report in a real browser: on a laptop, on a phone, in the dark, on paper."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.record import StudyRecord
from orchestrator.report import html
from tests import records
from tests.browser import PROGRAM, Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt install chromium)"),
]
CURVES = "figure .plot .scatterlayer .trace"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    tried = subprocess.run([str(PROGRAM), "--version"], capture_output=True, check=False)
    if tried.returncode:  # some systems have a script of that name that says what to install
        pytest.skip(f"{PROGRAM} does not start")
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return html.write(records.study(), folder)[0]


def large() -> StudyRecord:
    """Return a study one stage of which has 60 runs of 60 points."""
    record = records.study()
    found = record.stages[1]
    runs = [
        records.run(f"momentum {v / 100} seed {i}", momentum=v / 100, points=60)
        for v in range(90, 96)
        for i in range(10)
    ]
    outcomes = tuple(
        replace(records.outcome(r, records.falling(r, 0.3)), key=str(i)) for i, r in enumerate(runs)
    )
    assert (len(outcomes), len(outcomes[0].curve)) == (60, 60)
    stages = [record.stages[0], replace(found, outcomes=outcomes, clues={}), *record.stages[2:]]
    return replace(record, stages=stages)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_figures_are_drawn_and_fit_the_screen(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    """No complaint, nothing fetched, no sideways scrolling, curves in each plot, own colours."""
    browser.errors.clear()
    browser.requests.clear()
    browser.screen(width, scheme)
    browser.open(report)
    assert browser.errors == []
    assert [u for u in browser.requests if not u.startswith(("file:", "data:"))] == []
    assert browser.run("document.documentElement.scrollWidth") == width
    figures = browser.run(
        "[...document.querySelectorAll('figure')].map(f => [f.matches('.live'),"
        " f.querySelectorAll('.plot').length, f.querySelectorAll('svg.main-svg').length > 0,"
        " [...f.querySelectorAll('.plot')].every(p => p.querySelector('.scatterlayer .trace')),"
        " Math.max(...[...f.querySelectorAll('.plot')].map(p => p.scrollWidth))])"
    )
    assert [f[1] for f in figures] == [1, 2, 1, 2, 1]
    assert all(live and svg and curves for live, _, svg, curves, _ in figures)
    assert all(0.4 * min(width, 900) < size <= width for *_, size in figures)
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[scheme]
    ink = browser.run("getComputedStyle(document.querySelector('.plot .xtick text')).fill")
    assert ink == {"light": "rgb(28, 35, 41)", "dark": "rgb(230, 234, 237)"}[scheme]


def test_the_legend_hides_curves_and_shows_them_again(browser: Browser, report: Path) -> None:
    """All curves of a candidate in all panels, at a click."""
    browser.screen(1280, "light")
    browser.open(report)
    button = "document.querySelectorAll('figure')[1].querySelector('.legend button')"
    count = f"document.querySelectorAll('{CURVES}').length"
    before = browser.run(count)
    browser.run(f"{button}.click()")
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "false"
    hidden = browser.run(count)
    assert 0 < hidden < before
    browser.run(f"{button}.click()")
    assert browser.run(count) == before


def test_pointing_at_a_curve_tells_the_run(browser: Browser, report: Path) -> None:
    """Name, place and value, from the mouse's place on the page."""
    browser.screen(1280, "light")
    browser.open(report)
    browser.run("document.querySelectorAll('figure')[2].scrollIntoView({block: 'center'})")
    x, y = browser.run(
        "(() => { const p = document.querySelectorAll('figure')[2].querySelector('.plot');"
        " const l = p._fullLayout, t = p._fullData[0], b = p.getBoundingClientRect();"
        " return [b.x + l.xaxis._offset + l.xaxis.d2p(t.x[5]),"
        " b.y + l.yaxis._offset + l.yaxis.d2p(t.y[5])]; })()"
    )
    for shift in (3, 0):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + shift, y=y)
    told = browser.run(
        "new Promise(done => setTimeout(() => done("
        "document.querySelector('.hoverlayer').textContent +"
        " [...document.querySelectorAll('.hoverlayer')].map(h => h.textContent).join()), 300))"
    )
    assert "weight decay" in told
    assert "held-out loss" in told


def test_a_figure_is_zoomed_by_the_mouse(browser: Browser, report: Path) -> None:
    """A rectangle drawn with the mouse is what is seen then; a double click shows all again."""
    browser.screen(1280, "light")
    browser.open(report)
    plot = "document.querySelectorAll('figure')[1].querySelector('.plot')"
    ranges = f"(l => [...l.xaxis.range, ...l.yaxis.range].map(Number))({plot}._fullLayout)"
    browser.run(f"{plot}.scrollIntoView({{block: 'center'}})")
    all_of_it = browser.run(ranges)
    x, y, width, height = browser.run(
        f"(() => {{ const b = {plot}.getBoundingClientRect(), l = {plot}._fullLayout;"
        " return [b.x + l.xaxis._offset, b.y + l.yaxis._offset,"
        " l.xaxis._length, l.yaxis._length]; })()"
    )
    browser.drag((x + width / 4, y + height / 4), (x + width / 2, y + height / 2))
    left, right, low, high = all_of_it
    seen = [
        left + (right - left) / 4,
        left + (right - left) / 2,
        low + (high - low) / 2,
        low + 3 * (high - low) / 4,
    ]
    assert browser.run(ranges) == pytest.approx(seen, abs=0.02 * max(right - left, high - low))
    browser.click((x + width / 2, y + height / 2), times=2)
    shown = f"new Promise(done => setTimeout(() => done({ranges}), 500))"
    assert browser.run(shown) == pytest.approx(all_of_it)


def test_a_click_copies_the_recipe(browser: Browser, report: Path) -> None:
    """From a file too, where some browsers keep the clipboard away: then by the selection."""
    browser.screen(1280, "light")
    browser.open(report)
    browser.run("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    browser.run("document.querySelector('button.copy').click()")
    text = "new Promise(done => setTimeout(() => done({}), 200))"
    assert browser.run(text.format("document.querySelector('button.copy').textContent")) == "Copied"
    assert "plan=[final]" in browser.run("getSelection().toString()")


def test_paper_gets_the_pictures(browser: Browser, report: Path) -> None:
    """In print the interactive plots, the legends and the buttons give way to pictures."""
    browser.screen(1280, "dark", media="print")
    browser.open(report)
    shown = browser.run(
        "['.plots', '.legend', 'button.copy', 'figure img'].map(s =>"
        " [...document.querySelectorAll(s)].map(e => getComputedStyle(e).display !== 'none'))"
    )
    assert not any(shown[0] + shown[1] + shown[2])
    assert len(shown[3]) == 5
    assert all(shown[3])


def test_sixty_runs_of_sixty_points_are_drawn_at_once(browser: Browser, tmp_path: Path) -> None:
    """Seconds at most, however busy the machine."""
    browser.errors.clear()
    browser.screen(1280, "light")
    browser.open(html.write(large(), tmp_path)[0])
    assert browser.errors == []
    assert browser.run(f"document.querySelectorAll('{CURVES}').length") > 60
    ready = browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert 0 < ready < 10_000
    print(f"drawn after {ready:.0f} ms")
