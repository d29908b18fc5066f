"""The page, opened in a real browser: nothing is fetched, everything is reached, and what it says is the report's."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.evaluators.measurement import Infeasible, Window
from autocompress.reports.html_page import render
from autocompress.reports.report_data import ReportContext

from .conftest import ABOUT, Tell, Told, as_errors, slower
from .page_probes import CONTRAST, CONTROLS, LAST_COLUMN, PLACE, UNLABELLED, becomes, rows, title

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
EVIL = '<script>window.hit = 1</script><img src="x" onerror="window.hit = 2"><b>bold</b>'

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start one browser for all tests here, with the scrollbars of a desktop, and end it so that none is left."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=list(ARGUMENTS), ignore_default_args=["--hide-scrollbars"]
        )
        yield started
        started.close()


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a run; at the end, check that nothing was fetched and that the console is empty."""
    asked: list[str] = []
    said: list[str] = []
    contexts = []

    def open_page(
        told: Told, about: ReportContext = ABOUT, *, viewport: Any = DESKTOP, dark: bool = False, mark: str = ""
    ) -> Any:
        path = tmp_path / f"report{len(contexts)}.html"
        path.write_text(render(told.data(about, quick=True)), encoding="utf-8")
        context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri() + mark)
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []


@pytest.fixture(scope="module")
def told(tell: Tell) -> Told:
    """Return a run that ended."""
    return tell(80, broken="no such operator")


def test_the_first_screen_answers(told: Told, opened: Open) -> None:
    """Which model, how fast, what it cost: the headline, and the three gains, are those of the front."""
    page, best = opened(told), told.front.recommended
    assert best is not None
    assert page.inner_text("h1") == f"Model {best.id} meets 4 ms"
    figures = page.inner_text("#figures")
    assert f"{1 / best.measurement.latency.ratio:.2f}× faster" in figures
    smaller = told.front.baseline.measurement.size_bytes / best.measurement.size_bytes
    assert f"{smaller:.2f}× smaller" in figures
    assert f"{best.measurement.test_accuracy:.2%}".replace("%", " %") in figures
    assert title(page) == f"Model {best.id}"
    assert f"autocompress pick runs/imaginary {best.id} -o DIR" in page.inner_text("#take")


def test_the_page_tells_a_metric_in_its_unit(tell: Tell, opened: Open) -> None:
    """Decibels are decibels in the figures, the table, the answer and on the axis; shares of layers stay per cent."""
    told = as_errors(tell())
    told = replace(told, front=replace(told.front, limits=replace(told.front.limits, unit="dB")))
    page, base = opened(told), told.front.baseline.measurement
    value = f"{base.accuracy:.4g} dB".replace("-", "−")
    assert base.test_accuracy is not None
    assert f"{base.test_accuracy:.4g} dB".replace("-", "−") in page.inner_text("#figures")
    assert "Metric, test data" in page.inner_text("#figures")
    assert value in {cell for row in rows(page) for cell in row}
    assert page.text_content("#plot .ytitle") == "metric, validation data"
    assert " dB" in page.text_content("#plot .yaxislayer-above")
    for place in ("#figures", "#answer", "#table"):
        assert not re.search(r"\d %|points|accurac", page.inner_text(place).replace("95 %", ""))
    assert re.search(r"\d %", page.inner_text("#network-body"))


def test_the_page_calls_slower_what_is_slower(tell: Tell, opened: Open) -> None:
    """A model that is slower and larger than the unchanged network is never so many times faster or smaller."""
    page = opened(slower(tell()))
    assert "1.16× slower" in page.inner_text("#figures")
    assert "2.00× larger" in page.inner_text("#figures")
    assert "0.86× to 0.86× the speed" in page.inner_text("#figures")
    assert "1.16× slower" in page.inner_text("#answer")
    assert not re.search(r"faster|smaller", page.inner_text("#figures") + page.inner_text("#answer"))


def test_the_page_recommends_the_unchanged_network_where_nothing_is_better(told: Told, opened: Open) -> None:
    """For a target that all meet, the fastest of equally accurate models is recommended, even the unchanged one."""
    worst = min(model.measurement.accuracy for model in told.front.models) - 0.1
    models = tuple(
        replace(
            model,
            measurements=(
                replace(
                    model.measurement,
                    accuracy=worst,
                    latency=replace(
                        model.measurement.latency, windows=(Window(baseline_ns=(100,), candidate_ns=(150,)),) * 3
                    ),
                ),
            ),
        )
        for model in told.front.models
    )
    front = replace(told.front, models=models, references=())
    page = opened(replace(told, front=front, trials=()))
    page.fill("#target", "100000")
    becomes(lambda: "The unchanged network" in page.inner_text("#answer"))
    assert "no model found is better" in page.inner_text("#answer")


def test_every_model_is_drawn(told: Told, opened: Open) -> None:
    """The plot has a mark for every row whose two objectives are known, and a rug for those of one."""
    page = opened(told)
    page.select_option("#view", "all")
    drawn = page.evaluate("[...new Set(document.getElementById('plot').data.flatMap(t => t.customdata ?? []))].length")
    assert drawn == len(told.data()["points"]) - sum(p["latency"] is None for p in told.data()["points"])
    assert page.locator("#plot .scatterlayer path.point").count() >= drawn
    page.select_option("#x", "size")
    assert page.text_content("#plot .xtitle") == "size in MB"


def test_a_damage_is_told_in_per_cent_whatever_its_size(told: Told, opened: Open) -> None:
    """Outputs may move by less than a thousandth of a per cent of their variance, and by several times all of it."""
    page = opened(told)
    shares = page.evaluate("[0, 1e-9, 0.0012, 0.15, 3.2496].map(small)")
    assert shares == ["0 %", "< 0.001 %", "0.12 %", "15 %", "320 %"]


def test_a_click_chooses_a_point_and_shows_its_layers(told: Told, opened: Open) -> None:
    """A click on a point's mark makes it the chosen model, and every layer of the network is in its picture."""
    page = opened(told)
    page.select_option("#view", "all")
    fastest = min(told.front.models, key=lambda m: m.measurement.latency.median_ms)
    key = f"{fastest.id}@{fastest.measurement.latency.runtime}"
    page.locator("#plot").scroll_into_view_if_needed()
    at = page.evaluate(PLACE, key)
    page.mouse.move(at[0] - 1, at[1])
    page.mouse.move(*at)
    page.wait_for_selector("#plot .hovertext")
    page.mouse.click(*at)
    becomes(lambda: title(page) == f"Model {fastest.id}")
    names = page.eval_on_selector_all("#chosen .layers th[scope=row]", "all => all.map(e => e.innerText)")
    assert names == [layer.name for layer in told.profile.network.layers]
    assert "moves outputs" in page.inner_text("#chosen .layers")
    assert page.url.endswith(f"#{key}".replace("@", "%40"))


def test_arrow_keys_choose_from_the_fastest_to_the_slowest(told: Told, opened: Open) -> None:
    """In the plot, Home, End and the arrows go through the models by what is across."""
    page = opened(told)
    page.focus("#plot")
    page.keyboard.press("Home")
    seen = [title(page)]
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        seen.append(title(page))
    order = sorted(
        {m.id: m for m in (*told.front.models, *told.front.references, told.front.baseline)}.values(),
        key=lambda m: m.measurement.latency.median_ms,
    )
    assert seen == [f"Model {m.id}" for m in order[:5]]
    page.keyboard.press("End")
    assert title(page) == "The unchanged network"
    assert title(page) in page.get_attribute("#plot", "aria-label")


def test_the_table_sorts_filters_and_chooses(told: Told, opened: Open) -> None:
    """A head's button sorts up and down and says so, filters count what is left, a row's button chooses."""
    page = opened(told)
    count = len({m.id for m in (*told.front.models, *told.front.references, told.front.baseline)})
    assert len(rows(page)) == count
    page.click("#table th button >> text=Validation")
    up = [row[5] for row in rows(page)]
    assert page.get_attribute("#table th:has(button:text('Validation'))", "aria-sort") == "ascending"
    page.click("#table th button >> text=Validation")
    assert [row[5] for row in rows(page)] == sorted(up, key=lambda text: -float(text.split()[0]))
    page.select_option("#which", "all")
    assert page.inner_text("#count") == f"{len(told.data()['points'])} models"
    page.fill("#find", "no such operator")
    assert len(rows(page)) == sum(getattr(trial.outcome, "rung", "") == "build" for trial in told.trials)
    page.fill("#find", "")
    page.check("#meeting")
    assert {row[8] for row in rows(page)} == {"yes"}
    page.click("#table tbody tr:last-child button")
    assert title(page) == f"Model {rows(page)[-1][0]}"
    assert page.get_attribute("#table tbody tr:last-child button", "aria-pressed") == "true"


def test_another_target_is_answered_in_the_page(told: Told, opened: Open) -> None:
    """The recommended model, the line, and who meets the target change; what the run was asked for comes back."""
    page = opened(told)
    before = title(page)
    target = sorted(m.measurement.latency.high_ms for m in told.front.models)[1] + 0.01
    page.fill("#target", f"{target:.4f}")
    fitting = [m for m in told.front.models if m.measurement.latency.high_ms <= target]
    best = max(fitting, key=lambda m: (m.measurement.accuracy, -m.measurement.latency.median_ms))
    assert title(page) == f"Model {best.id}" != before
    assert f"Model {best.id}: " in page.inner_text("#answer")
    assert f"target {target:.2f} ms" in page.text_content("#plot .infolayer")
    page.fill("#target", "0.001")
    assert "No model found meets 0.001 ms" in page.inner_text("#answer")
    page.click("#asked")
    assert title(page) == before


def test_two_models_are_compared(told: Told, opened: Open) -> None:
    """The other model's numbers stand beside the chosen one's, and layers that differ say what the other has."""
    page = opened(told)
    fastest = min(told.front.models, key=lambda m: m.measurement.latency.median_ms)
    page.select_option("#other", f"{fastest.id}@analytic")
    assert fastest.id in page.inner_text("#chosen .pairs thead")
    assert "other: " in page.inner_text("#chosen .layers")


def test_the_keyboard_reaches_every_control(told: Told, opened: Open) -> None:
    """Pressing Tab again and again comes to every control that can be seen."""
    page = opened(told)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    controls = set(page.evaluate(CONTROLS))
    reached = set()
    for _ in range(len(controls) + 10):
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement?.dataset?.stop ?? null")
        reached |= set() if stop is None else {int(stop)}
    assert reached == controls
    assert len(controls) > 25


def test_what_a_user_named_is_text(told: Told, opened: Open) -> None:
    """Markup in the names of a study, a role, a layer, a runtime and in reasons and warnings is shown, never run."""
    trials = tuple(
        replace(t, outcome=replace(t.outcome, reason=EVIL)) if hasattr(t.outcome, "reason") else t for t in told.trials
    )
    layers = tuple(replace(layer, name=layer.name + EVIL) for layer in told.profile.network.layers)
    network = replace(told.profile.network, layers=layers, left_alone=((EVIL, EVIL),))
    models = tuple(replace(m, measurements=(replace(m.measurement, warnings=(EVIL,)),)) for m in told.front.models)
    references = tuple(replace(m, role=EVIL) for m in told.front.references)
    evil = Told(
        replace(told.front, models=models, references=references, reasons=(EVIL,)),
        trials,
        replace(told.profile, network=network),
    )
    about = replace(ABOUT, study={**ABOUT.study, "study": EVIL}, folder=EVIL, calibration={"environment": {EVIL: EVIL}})
    page = opened(evil, about)
    assert EVIL in page.inner_text("#study")
    assert EVIL in page.text_content("#doubts")
    assert EVIL in page.inner_text("#network-body")
    page.select_option("#which", "all")
    page.click("#table tbody tr >> nth=0")
    page.focus("#plot")
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    for i in range(12):
        page.mouse.move(box["x"] + 60 + 50 * i, box["y"] + 120)
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main b:text-is('bold'), #plot a").count() == 0


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("word", ["", "/a/path/without/a/space" * 8], ids=["short", "long"])
def test_a_phone_needs_no_sideways_scrolling(word: str, width: int, told: Told, opened: Open) -> None:
    """The page is no wider than the screen, nor are the plot and the panel, whatever a user's names and reasons are."""
    trials = tuple(
        replace(t, outcome=replace(t.outcome, reason=t.outcome.reason + word))
        if isinstance(t.outcome, Infeasible)
        else t
        for t in told.trials
    )
    models = tuple(replace(m, measurements=(replace(m.measurement, warnings=(word,)),)) for m in told.front.models)
    network = replace(told.profile.network, left_alone=(("layer", word),))
    front = replace(told.front, models=models, reasons=(word,))
    about = replace(ABOUT, folder=ABOUT.folder + word, study={**ABOUT.study, "study": "imaginary" + word})
    page = opened(
        Told(front, trials, replace(told.profile, network=network)), about, viewport={"width": width, "height": 800}
    )
    page.eval_on_selector_all("details", "all => all.forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('#plot .main-svg').getBoundingClientRect().right") <= width
    assert page.evaluate(
        "document.getElementById('chosen').scrollWidth <= document.getElementById('chosen').clientWidth"
    )


@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_the_panel_of_a_model_shows_its_last_column(width: int, told: Told, opened: Open) -> None:
    """Each row of numbers ends before the panel's scrollbar, for every model of the front."""
    page = opened(told, viewport={"width": width, "height": 700})
    buttons = page.locator("#table td button")
    for index in range(buttons.count()):
        buttons.nth(index).click()
        assert page.evaluate(LAST_COLUMN) < 1, page.inner_text("#chosen .pairs")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_and_controls_have_names(dark: bool, told: Told, opened: Open) -> None:
    """Contrast is at least 4.5 everywhere, every control has a name, and the plot has the scheme's colours."""
    page = opened(told, dark=dark)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNLABELLED) == []
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert page.evaluate("getComputedStyle(document.querySelector('#plot .xtitle')).fill") == ink
    assert page.evaluate("document.querySelectorAll('table:not(:has(caption))').length") == 0
    page.emulate_media(color_scheme="light" if dark else "dark")
    becomes(lambda: page.evaluate("getComputedStyle(document.querySelector('#plot .xtitle')).fill") != ink)


def test_of_several_runtimes_one_is_looked_at(tell: Tell, opened: Open) -> None:
    """The select shows the front of all runtimes, or of one alone, in the plot and in the table."""
    page = opened(tell(runtimes=("first", "second")))
    assert {row[2] for row in rows(page)} == {"first", "second"}
    page.select_option("#runtime", label="second")
    assert {row[2] for row in rows(page)} == {"second"}
    assert "second" in page.inner_text("#chosen-kind")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"target_ms": 0.5}, "Nothing meets 0.5 ms"),
        ({"count": 1}, "No candidate was measured"),
        ({"ended": False}, "meets 4 ms"),
    ],
    ids=str,
)
def test_any_run_has_a_page(how: dict[str, Any], said: str, tell: Tell, opened: Open) -> None:
    """A run without a feasible model, one of a single trial and one that is running are shown, without an error."""
    page = opened(tell(**how), replace(ABOUT, state="running"))
    assert said in page.inner_text("h1")
    assert "The run has not ended" in page.inner_text("#warnings")
    assert rows(page)


def test_a_link_names_a_model(told: Told, opened: Open) -> None:
    """The address that a choice leaves opens the page with that model."""
    fastest = min(told.front.models, key=lambda m: m.measurement.latency.median_ms)
    assert title(opened(told, mark=f"#{fastest.id}@analytic")) == f"Model {fastest.id}"


def test_five_thousand_trials_open_quickly(tell: Tell, browser: Any, tmp_path: Path) -> None:
    """The page has less than 10 MB and opens in 3 seconds; on a busy machine, in three times a small one's time."""
    spent = {}
    for name, run in (("large", tell(5000, layers=20, target_ms=6.0)), ("small", tell(3))):
        path = tmp_path / f"{name}.html"
        path.write_text(render(run.data()), encoding="utf-8")
        times = []
        for _ in range(3):
            page = browser.new_page(viewport=DESKTOP)
            began = time.monotonic()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]", timeout=60_000)
            times.append(time.monotonic() - began)
            page.close()
        spent[name] = min(times)
    assert (tmp_path / "large.html").stat().st_size < 10_000_000
    assert spent["large"] < max(3.0, 3 * spent["small"])
