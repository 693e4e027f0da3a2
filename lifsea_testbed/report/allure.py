"""Allure: steps, attachments, labels and verdicts of tests, and the files that its report needs.

Without --alluredir every call for the running test does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import allure

from lifsea_testbed.errors import Blame, CallerError, HostError
from lifsea_testbed.profiles.claims import Claim, catalogue
from lifsea_testbed.profiles.explanation import explain
from lifsea_testbed.report import gate
from lifsea_testbed.report.document import Document
from lifsea_testbed.report.outcome import Status, in_words
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.sinks import json_text, markup, property_value

_LONGEST_TITLE = 200
_PAGE = "claims.html"
#: The categories of results, the most urgent first: a name, the status and whose fault it is.
_CATEGORIES = (
    ("The image broke a promise", Status.FAILED, Blame.PRODUCT),
    ("The image broke a promise: a known issue, expired", Status.EXPIRED, None),
    ("The test bed failed", Status.BROKEN, Blame.HARNESS),
    ("The host failed", Status.BROKEN, Blame.HOST),
    ("The command line is wrong", Status.BROKEN, Blame.CALLER),
    ("A known issue", Status.KNOWN, None),
    ("Flaky: passed at a later attempt", Status.FLAKY, None),
    ("Not judged", Status.NOT_JUDGED, None),
)
_TITLE = "{verdict}: {image}"
_HTML = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Claims</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ white-space: pre-wrap }} :target {{ background: #ffc4 }}</style>
<h1>Claims</h1>
{claims}
</html>
"""

_label: Callable[[str, str], None] = allure.dynamic.label
_description: Callable[[str], None] = allure.dynamic.description
_link: Callable[..., None] = allure.dynamic.link
_attach_file: Callable[..., None] = allure.attach.file


def name(claim: Claim, *, page: str) -> None:
    """Labels the running test with its claim; `page` is the address of the page of all claims.

    Allure 3 makes links only of addresses with a scheme; in a description it makes one of any address.
    """
    _label("claim", claim.id)
    if "://" in page:
        _link(f"{page}#{claim.id}", link_type="claim", name=claim.id)


def describe(claim: Claim, *, page: str) -> None:
    """Sets the description of the running test: the promise, its source and a link to its explanation."""
    _description(f"{claim.promise}\n\nClaim [{claim.id}]({page}#{claim.id}), source: {claim.source}")


class Steps:
    """Shows each step of a machine in its test or fixture; equal steps in a row are one."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, title: str) -> AbstractContextManager[object]:
        """Opens a step with that title."""
        title = redact(printable(title))[:_LONGEST_TITLE]
        if title == self._last:
            return contextlib.nullcontext()
        self._last = title
        step: AbstractContextManager[object] = allure.step(title)
        return step


def attach(name: str, text: str) -> None:
    """Attaches a text to the running test."""
    allure.attach(text, name=name, attachment_type=allure.attachment_type.TEXT)


def attach_picture(name: str, path: Path) -> None:
    """Attaches a PNG to the running test."""
    _attach_file(str(path), name=name, attachment_type=allure.attachment_type.PNG)


def set_verdict(listener: Any, status: Status, *, why: str, blame: str, reason: str, issue: str) -> None:
    """Sets the labels and status details of the test that has just ended to the verdict of the gate.

    `listener` is allure-pytest's plugin `allure_listener`, or None.
    """
    if listener is None or (result := listener.allure_logger.get_test(None)) is None:
        return
    _label("verdict", str(status))
    for label, value in (("blame", blame), ("reason", reason)):
        if value:
            _label(label, value)
    if issue:
        _link(issue, link_type="issue", name="known issue")
    if status is Status.PASSED:
        return
    details = result.statusDetails
    if details is None:
        from allure_commons.model2 import StatusDetails

        details = result.statusDetails = StatusDetails()
    details.message = f"{in_words(status, reason)}: {why}"
    result.status = _outcomes(status)[0]
    details.known = status in (Status.KNOWN, Status.EXPIRED)
    details.flaky = status is Status.FLAKY


def claims_page(reports: str) -> str:
    """Returns the address of the page of all claims: below the address of the reports, or relative to Allure's."""
    return f"{reports.rstrip('/')}/{_PAGE}" if reports else f"../{_PAGE}"


def prepare(document: Document, reports: Path, results: Path) -> None:
    """Writes environment and categories to Allure's results; beside them Allure 3's settings and the page of claims.

    `allure generate allure` in the directory of the reports writes `allure-report` there, with the history of earlier
    runs in the same directory; Allure 2 reads the files in the results.
    """
    results.mkdir(parents=True, exist_ok=True)
    (results / "environment.properties").write_text("".join(f"{line}\n" for line in _environment(document)), "utf-8")
    _write_json(results / "categories.json", [
        {"name": name, "matchedStatuses": _outcomes(status), "messageRegex": _pattern(status), **_trace(status, blame)}
        for name, status, blame in _CATEGORIES
    ])  # fmt: skip
    _write_json(reports / "allurerc.json", {
        "name": _TITLE.format(verdict=gate.headline(document), image=document.image.name),
        "output": "allure-report",
        "historyPath": "allure-history.jsonl",
        "categories": [{"name": name, "matchers": {"labels": _labels(status, blame)}}
                       for name, status, blame in _CATEGORIES],
        "plugins": {"awesome": {"options": {"singleFile": True, "reportLanguage": "en"}}},
    })  # fmt: skip
    (reports / _PAGE).write_text(_claims(), "utf-8")


def _environment(document: Document) -> Iterator[str]:
    """The lines of a Java properties file."""
    facts = {
        "verdict": gate.headline(document), "why": document.why, "image": document.image.name,
        "image.sha256": document.image.sha256, "image.version": document.image.version,
        "profile": document.profile, "instance": document.instance_type,
        "firmware": document.firmware,
    }  # fmt: skip
    for run in document.runs:
        facts |= {"accelerator": run.accelerator, "host": f"{run.host.processor}, {run.host.cores} cores",
                  "kernel": run.host.kernel, **run.tools}  # fmt: skip
    yield from (f"{name}={property_value(value)}" for name, value in facts.items() if value)


def _outcomes(status: Status) -> list[str]:
    """The statuses of Allure for a test of that status."""
    if status.is_failure:
        return ["failed"]
    return {Status.BROKEN: ["broken"], Status.FLAKY: ["passed"]}.get(status, ["skipped"])


def _labels(status: Status, blame: Blame | None) -> dict[str, str]:
    labels = {"verdict": f"^{status}$"}
    return {**labels, "blame": f"^{blame}$"} if blame else labels


def _pattern(status: Status) -> str:
    return rf"(?s){status}( by \w+)?: .*"


def _trace(status: Status, blame: Blame | None) -> dict[str, str]:
    """Allure 2 has no labels: it finds the blame of a broken test by the exception at the start of the trace."""
    if status is not Status.BROKEN:
        return {}
    host, caller = _names(HostError), _names(CallerError)
    patterns = {Blame.HOST: f"({host})", Blame.CALLER: f"({caller})", Blame.HARNESS: f"(?!({host}|{caller}): )"}
    return {"traceRegex": f"(?s){patterns[blame or Blame.HARNESS]}.*"}


def _names(error: type[Exception]) -> str:
    return "|".join(sorted(each.__name__ for each in _family(error)))


def _family(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for below in error.__subclasses__():
        yield from _family(below)


def _claims() -> str:
    sections = (f'<section id="{markup(name)}"><h2>{markup(name)}</h2>\n'
                f"<pre>{markup(str(explain(name)))}</pre></section>" for name in catalogue())  # fmt: skip
    return _HTML.format(claims="\n".join(sections))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json_text(content) + "\n", "utf-8")
