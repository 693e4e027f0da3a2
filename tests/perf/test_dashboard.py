"""The dashboard in a headless browser: fast, harmless, legible, and usable by keyboard and on narrow screens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.cli.main import main
from lifsea_testbed.perf import dashboard
from lifsea_testbed.perf.change_points import Step
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Better, BuildKind, Metric
from lifsea_testbed.perf.trend import Point, Trend, trends
from lifsea_testbed.support.sanitize import printable
from tests.support import attacks
from tests.support.browser import Browser, browser
from tests.support.perf_cases import BOOT, build, nightly, samples

HOSTILE = " ".join(text for text in attacks.MARKUP if printable(text) == text)
PHASES = ("firmware", "kernel", "userspace")
#: Five years of nightly runs.
BUILDS, METRICS, SAMPLES = 2000, 40, 10
VIEWS = ("", "#/metric/0", "#/compare", "#/builds", "#/build/0")


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A history of 100 builds with one shift, phases, and an image whose texts are hostile; the address of its site."""
    place = tmp_path_factory.mktemp("dashboard")
    levels = [2.0] * 60 + [2.12] * 40
    phases = [replace(BOOT, name=f"boot/{phase}", definition="") for phase in PHASES]
    with History(str(place / "history.db")) as history:
        history.add(nightly(levels, budget=2.4, release_every=100))
        for phase in phases:
            history.add(nightly([level / 3 for level in levels], metric=phase, release_every=100))
        evil = Metric(name=HOSTILE, unit=HOSTILE, better=Better.LOWER, definition=HOSTILE)
        newest = build(100, image_version=HOSTILE, revision=HOSTILE, reports="javascript:window.owned=1")
        history.add(samples(newest, [2.12, 2.13, 2.14, 2.11, 2.12], budget=2.0, test=HOSTILE))
        history.add(samples(newest, [1.0], evil))
        history.add(samples(build(0, host_class=HOSTILE), [1.0], evil))
    assert main(["dashboard", "--history", str(place / "history.db"), "-o", str(place / "site")]) == 0
    return f"file://{place}/site/index.html"


@pytest.fixture(scope="module")
def large_site(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("large")
    builds = [build(number, kind=BuildKind.RELEASE if number % 60 == 30 else BuildKind.BUILD)
              for number in range(BUILDS)]  # fmt: skip
    dashboard.write([large_trend(number, builds) for number in range(METRICS)], place)
    return f"file://{place}/index.html"


def large_trend(number: int, builds: list[Any]) -> Trend:
    metric = Metric(name="boot" if number == 0 else f"boot/{number}" if number < 8 else f"m{number}", unit="s",
                    better=Better.LOWER)  # fmt: skip
    points = [large_point(each, 2.0 + number + (index * 7 % 31) / 200) for index, each in enumerate(builds)]
    steps = [Step(index=at, before=2.0, after=2.1, p=0.0) for at in range(200, BUILDS, 400)]
    return Trend(metric=metric, setting=builds[0].setting, points=points, steps=steps, comparison=None)


def large_point(of: Any, level: float) -> Point:
    values = [level + place / 1000 for place in range(SAMPLES)]
    return Point(build=of, samples={"suites/test_boot.py::test_boots": values}, count=SAMPLES, least=values[0],
                 low=values[1], median=level, high=values[-2], most=values[-1], budget=3.0, place=1)  # fmt: skip


def trend_number(page: Browser, site: str, name: str) -> int:
    page.open(site)
    find = f"(each) => each.metric.name === {json.dumps(name)} && each.setting === state.setting"
    number: int = page.run(f"load('index').then((index) => index.trends.findIndex({find}))")
    return number


def build_number(page: Browser, site: str, label: str) -> int:
    page.open(site)
    number: int = page.run(f"load('builds').then((builds) => builds.label.indexOf({json.dumps(label)}))")
    return number


def test_every_view_of_five_years_is_there_within_a_second(page: Browser, large_site: str) -> None:
    page.look(width=1280)
    slowest = {view: min(page.open(large_site + view) for _ in range(2)) for view in VIEWS}
    assert max(slowest.values()) <= 1.0, slowest
    assert page.complaints == []


def test_no_view_reaches_beyond_its_directory(page: Browser, site: str) -> None:
    page.requests.clear()
    for view in VIEWS:
        page.open(site + view)
    folder = site.removesuffix("index.html")
    assert [url for url in page.requests if not url.startswith((folder, "data:,", "about:blank"))] == []


def test_nothing_that_an_image_says_becomes_markup(page: Browser, site: str) -> None:
    page.complaints.clear()
    evil, named = trend_number(page, site, HOSTILE), build_number(page, site, HOSTILE)
    for view in (*VIEWS, f"#/metric/{evil}", f"#/build/{named}", f"#/compare/50/{named}"):
        page.open(site + view)
        assert page.run("[window.owned, document.querySelectorAll('main img, main script').length]") == [None, 0]
    assert page.complaints == []
    page.open(f"{site}#/build/{named}")
    assert page.run("document.querySelector('h1').textContent") == HOSTILE
    assert page.run("[...document.links].filter((a) => a.protocol === 'javascript:').length") == 0


def test_a_metric_shows_its_change_point_budget_phases_and_verdict(page: Browser, site: str) -> None:
    page.open(f"{site}#/metric/{trend_number(page, site, 'boot')}")
    page.wait_for("document.querySelectorAll('.phase').length === 3")
    shown = page.run("document.getElementById('main').innerText")
    assert re.search(r"boot regressed: \d[.\d]* → 2\.12 s", shown)
    assert page.run("document.querySelectorAll('.plot .step').length") == 1
    assert page.run("document.querySelectorAll('.plot .budget').length") == 2
    assert page.run("document.querySelector('.steps tbody th').textContent") == "3.60"
    assert "over budget" in shown


def test_the_keyboard_goes_from_build_to_build_and_opens_one(page: Browser, site: str) -> None:
    page.open(f"{site}#/metric/{trend_number(page, site, 'boot')}")
    page.run("document.querySelector('.plot').focus()")
    last = page.run("document.querySelector('.plot').getAttribute('aria-valuenow')")
    page.press("ArrowLeft")
    assert int(page.run("document.querySelector('.plot').getAttribute('aria-valuenow')")) == int(last) - 1
    assert page.run("document.querySelector('.plot').getAttribute('aria-valuetext')").startswith("3.99, 2021-09-08: ")
    page.press("Enter")
    page.wait_for("location.hash.startsWith('#/build/') && document.querySelector('h1').textContent === '3.99'")


def test_a_plot_takes_keys_before_it_is_drawn(page: Browser, site: str) -> None:
    page.open(site)
    frame = ("new Frame({labels: ['1', '2'], starts: [0, 1], low: 0, high: 1, unit: 's', height: 99, name: 'boot', "
             "words: (place) => ({text: `build ${place}`, parts: [], dots: [0.5]}), open: () => {}})")
    pressed = ("frame.plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'})); "
               "frame.plot.dispatchEvent(new PointerEvent('pointermove', {clientX: 9}))")
    page.complaints.clear()
    assert page.run(f"(() => {{const frame = {frame}; {pressed}; return frame.plot.ariaValueText}})()") == "build 0"
    assert page.complaints == []


def test_everything_that_acts_can_be_reached_by_tab(page: Browser, site: str) -> None:
    page.open(site)
    reachable = "[...document.querySelectorAll('main a, main button, main input, header a, header select')]"
    assert page.run(f"{reachable}.every((each) => each.tabIndex === 0)")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"


def test_metrics_are_filtered_by_verdict_and_name(page: Browser, site: str) -> None:
    page.open(site)
    count = "document.querySelectorAll('.metrics .metric').length"
    everything = page.run(count)
    page.run("document.querySelector('.chip').click()")
    assert 0 < page.run(count) < everything
    page.run("document.querySelector('.chip').click()")
    page.run("document.querySelector('[type=search]').value = 'KERNEL'")
    page.run("document.querySelector('[type=search]').dispatchEvent(new Event('input'))")
    assert page.run(count) == 1


def test_two_builds_are_compared_sample_by_sample(page: Browser, site: str) -> None:
    page.open(f"{site}#/compare/45/90")
    rows = "[...document.querySelectorAll('.comparison tbody tr')]"
    row = f"{rows}.find((each) => each.querySelector('th').textContent === 'boot')"
    assert "apart" in page.run(f"{row}.textContent")
    assert page.run(f"{row}.querySelectorAll('circle').length") == 10
    assert page.run("document.querySelectorAll('.bars .phase').length") == 6


@pytest.mark.parametrize("view", VIEWS)
def test_narrow_screens_need_no_sideways_scrolling(page: Browser, site: str, view: str) -> None:
    page.look(width=390)
    page.open(site + view)
    assert page.run("document.documentElement.scrollWidth") == 390
    page.look(width=1280)


def test_it_is_dark_where_that_is_preferred(page: Browser, site: str) -> None:
    backgrounds = []
    for dark in (False, True):
        page.look(width=1280, dark=dark)
        page.open(site)
        backgrounds.append(page.run("getComputedStyle(document.documentElement).backgroundColor"))
    page.look(width=1280)
    assert backgrounds == ["rgb(246, 247, 249)", "rgb(14, 19, 25)"]


@pytest.mark.parametrize(("text", "back"), [
    ("ink", "page"), ("soft", "page"), ("soft", "card"), ("faint", "card"), ("link", "card"), ("bad", "bad-back"),
    ("good", "good-back"), ("unclear", "unclear-back"), ("calm", "calm-back"), ("bad", "card"), ("good", "card"),
])  # fmt: skip
def test_texts_stand_out_from_what_they_are_on(text: str, back: str) -> None:
    """By 4.5 to 1 in both colour schemes (WCAG 2.2, AA)."""
    style = Path(dashboard.__file__).with_name("site").joinpath("style.css").read_text("utf-8")
    for scheme in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        assert contrast(colours[text], colours[back]) >= 4.5, (text, colours[text], back, colours[back])


def contrast(first: str, second: str) -> float:
    dark, light = sorted(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_an_empty_history_has_a_page_as_well(page: Browser, tmp_path: Path) -> None:
    dashboard.write([], tmp_path)
    page.open(f"file://{tmp_path}/index.html")
    assert "no figures yet" in page.run("document.getElementById('main').textContent")


def test_an_address_that_leads_nowhere_says_so(page: Browser, site: str) -> None:
    page.complaints.clear()
    page.open(f"{site}#/metric/99")
    assert page.run("document.querySelector('h1').textContent") == "Nothing to show"
    page.complaints.clear()


def test_trends_sum_up_what_the_samples_say(tmp_path: Path) -> None:
    with History(str(tmp_path / "history.db")) as history:
        history.add(nightly([2.0] * 40, each=10))
        history.add(samples(build(40, accelerator="tcg"), [9.0, 8.0, 7.0]))
        first, second = trends(history)
    assert (len(first.points), first.steps, first.comparison is not None) == (40, [], True)
    point = first.points[7]
    ordered = sorted(value for values in point.samples.values() for value in values)
    assert [point.least, point.low, point.high, point.most] == [ordered[0], ordered[1], ordered[8], ordered[9]]
    assert (second.setting.accelerator, second.comparison) == ("tcg", None)
    assert [second.points[0].low, second.points[0].median, second.points[0].high] == [7.0, 8.0, 9.0]
