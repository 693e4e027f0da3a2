"""The files for Allure, and the report that its own command line makes of them, seen in a browser."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.report import allure
from lifsea_testbed.support import steps
from tests.plugin.test_plugin import judge as judge_quickly
from tests.plugin.test_plugin import place as place
from tests.support import ROOT
from tests.support.boot_sector import raw_image
from tests.support.browser import Browser, browser
from tests.test_story import judge

SUITE = '''
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_power(own_machine):
    """It comes back."""
    own_machine.power_cut()

@claim("no-sshd")
def test_no_sshd(own_machine):
    """It has none."""
    assert own_machine.boots == []
'''
PROFILE = """
extends = "reference"
name = "quick"
claims = ["boots-to-ready", "no-sshd"]
[access]
methods = ["none"]
[boot]
ready_line = "all is well"
"""


def results(reports: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (reports / "allure").glob("*-result.json")]
    return {result["name"]: result for result in sorted(found, key=lambda result: int(result["start"]))}


@pytest.mark.boots
def test_a_run_writes_all_data_of_allure(place: pytest.Pytester) -> None:
    place.makepyfile(test_suite=SUITE)
    (place.path / "quick.toml").write_text(PROFILE)
    address = "https://reports.example/1/"
    judge_quickly(place, raw_image(place.path / "disk.raw", "all is well\n"), "--reports-url", address)
    reports = place.path / "reports"
    found = results(reports)
    (cut,) = found["test_power"]["steps"]
    assert (cut["name"], [step["name"] for step in cut["steps"]]) == ("power cut", ["power on"])
    setups = [before for path in (reports / "allure").glob("*-container.json")
              for before in json.loads(path.read_text()).get("befores", [])]  # fmt: skip
    assert ["power on"] in [[step["name"] for step in before.get("steps", [])] for before in setups]
    assert {link["url"] for link in found["test_no_sshd"]["links"]} == {f"{address}claims.html#no-sshd"}
    assert "source: seed" in found["test_no_sshd"]["description"]
    assert "console of own_machine" in [each["name"] for each in found["test_no_sshd"]["attachments"]]
    environment = (reports / "allure/environment.properties").read_text().splitlines()
    assert "verdict=fail" in environment and "profile=quick" in environment
    assert any(re.fullmatch(r"qemu=\d+\.\d+.*", line) for line in environment)
    page = (reports / "claims.html").read_text()
    assert [claim for claim in catalogue() if f'id="{claim}"' not in page] == []


@pytest.mark.nightly
@pytest.mark.boots
def test_a_claim_is_named_although_its_machine_never_comes_up(place: pytest.Pytester) -> None:
    judge_quickly(place, raw_image(place.path / "disk.raw", "Kernel panic - not syncing\n"))
    labels = {label["name"]: label["value"] for label in results(place.path / "reports")["test_boots"]["labels"]}
    assert (labels["claim"], labels["verdict"], labels["blame"]) == ("boots-to-ready", "failed", "product")


def test_equal_steps_in_a_row_are_one() -> None:
    shown: list[str] = []

    class Recorded(allure.Steps):
        def __call__(self, title: str) -> Any:
            context = super().__call__(title)
            shown.extend([title] if "StepContext" in type(context).__name__ else [])
            return context

    steps.listen(Recorded())
    try:
        for title in ("run: true", "run: true", "run: false", "run: true"):
            with steps.step(title):
                pass
    finally:
        steps.listen()
    assert shown == ["run: true", "run: false", "run: true"]


def publish(run: Path) -> None:
    subprocess.run([ROOT / "ci/publish", run / "reports", run / "history"], check=True)


def click(page: Browser, text: str) -> None:
    """Clicks on the smallest thing that shows just this text."""
    page.run(f"[...document.querySelectorAll('div,span,button')].filter(each => each.textContent.trim() === {text!r})"
             ".at(-1).click()")  # fmt: skip


@pytest.mark.nightly
def test_the_report_of_allure_shows_both_runs(tmp_path: Path) -> None:
    """Two runs, so that there is a history; in a browser that may not load anything else."""
    (tmp_path / "history").mkdir()
    for _ in range(2):
        judge(tmp_path, "--history", "history/figures.db")
        publish(tmp_path)
    report = tmp_path / "reports/allure-report/index.html"
    with browser() as page:
        page.look(width=1400)
        page.call("Page.navigate", url=report.as_uri())
        page.wait_for("document.body?.innerText.includes('test_initramfs')")
        shown = page.run("document.body.innerText")
        page.screenshot(tmp_path / "overview.png")
        counts = re.findall(r"^(Failed|Broken|Passed|Skipped) (\d+)$", shown, re.MULTILINE)
        assert dict(counts) == {"Failed": "3", "Broken": "2", "Passed": "2", "Skipped": "4"}
        for fact in ("fail: disk.raw", "Flaky tests\n1", "not kept: no-sshd, no-package-manager, no-logind",
                     "ecs.g7.large"):
            assert fact in shown
        click(page, "test_sshd")
        page.wait_for("document.body.innerText.includes('Category: The image broke a promise')")
        page.screenshot(tmp_path / "test.png")
        shown = page.run("document.body.innerText")
        assert "History\n1" in shown and "failed: assert ['/usr/sbin/sshd'] == []" in shown
        page.wait_for("document.querySelector('iframe')?.contentDocument?.links.length === 1")
        assert page.run("document.querySelector('iframe').contentDocument.links[0].href") == \
            (tmp_path / "reports/claims.html#no-sshd").as_uri().replace("%23", "#")  # fmt: skip
        assert [request for request in page.requests if not request.startswith(("file:", "data:", "blob:"))] == []
    assert len((tmp_path / "history/allure-history.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "reports/dashboard/index.html").exists()


CATEGORIES = {
    "test_sshd": "The image broke a promise", "test_python": "A known issue",
    "test_package_manager": "The image broke a promise: a known issue, expired",
    "test_initramfs": "The test bed failed", "test_boot_time": "Not judged",
    "test_identity": "Flaky: passed at a later attempt", "test_units": "Not judged", "test_resolved": "Not judged",
    "test_logind": "The image broke a promise", "test_memory": "The test bed failed",
}  # fmt: skip


def test_categories_are_by_blame(tmp_path: Path) -> None:
    """By the regular expressions that Allure 2 reads; Allure 3 reads labels."""
    judge(tmp_path)
    categories = json.loads((tmp_path / "reports/allure/categories.json").read_text())
    matched = {}
    for name, result in results(tmp_path / "reports").items():
        details = result.get("statusDetails", {})
        matched[name] = [each["name"] for each in categories if result["status"] in each["matchedStatuses"]
                         and re.fullmatch(each["messageRegex"], details.get("message", ""))
                         and re.fullmatch(each.get("traceRegex", "(?s).*"), details.get("trace", ""))]  # fmt: skip
    assert {name: names for name, names in matched.items() if names} == {
        name: [category] for name, category in CATEGORIES.items()
    }
