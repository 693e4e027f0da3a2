"""What Allure is given beside the results: the environment, the categories, how to make the report, the claims."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.errors import Blame, CallerError, HostError
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.profiles.explanation import explain
from lifsea_testbed.report.document import Document
from lifsea_testbed.report.outcome import Status
from lifsea_testbed.support.sanitize import printable

_PAGE = "claims.html"
#: The categories of failures, first those that somebody has to act on: a name, the word of the gate, whose fault.
_CATEGORIES = (
    ("The image broke a promise", Status.FAILED, Blame.PRODUCT),
    ("The image broke a promise: a known issue, expired", Status.EXPIRED, None),
    ("The test bed failed", Status.BROKEN, Blame.HARNESS),
    ("The host failed", Status.BROKEN, Blame.HOST),
    ("The caller asked for what cannot be", Status.BROKEN, Blame.CALLER),
    ("A known issue", Status.KNOWN, None),
    ("Flaky: passed, but not at first", Status.FLAKY, None),
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


def claims_page(reports: str) -> str:
    """Returns the address of the page of all claims: below the address of the reports, or relative to Allure's."""
    return f"{reports.rstrip('/')}/{_PAGE}" if reports else f"../{_PAGE}"


def prepare(document: Document, reports: Path, results: Path) -> None:
    """Writes the environment and the categories to Allure's results, and beside them Allure 3's settings.

    `allure generate allure` in the directory of the reports makes `allure-report` there, with the history of earlier
    runs in the same directory; Allure 2 takes what lies in the results.
    """
    results.mkdir(parents=True, exist_ok=True)
    (results / "environment.properties").write_text("".join(f"{line}\n" for line in _environment(document)), "utf-8")
    _write_json(results / "categories.json", [
        {"name": name, "matchedStatuses": _outcomes(status), "messageRegex": _pattern(status), **_trace(status, blame)}
        for name, status, blame in _CATEGORIES
    ])  # fmt: skip
    _write_json(reports / "allurerc.json", {
        "name": _TITLE.format(verdict=document.verdict, image=document.image.name),
        "output": "allure-report",
        "historyPath": "allure-history.jsonl",
        "categories": [{"name": name, "matchers": {"labels": _labels(status, blame)}}
                       for name, status, blame in _CATEGORIES],
        "plugins": {"awesome": {"options": {"singleFile": True, "reportLanguage": "en"}}},
    })  # fmt: skip
    (reports / _PAGE).write_text(_claims(), "utf-8")


def _environment(document: Document) -> Iterator[str]:
    """The lines of a Java properties file, whose values have no line ends and no backslashes."""
    facts = {
        "verdict": str(document.verdict), "why": document.why, "image": document.image.name,
        "image.sha256": document.image.sha256, "image.version": document.image.version,
        "profile": document.profile, "instance": document.instance_type,
    }  # fmt: skip
    for run in document.runs:
        facts |= {"accelerator": run.accelerator, "host": f"{run.host.processor}, {run.host.cores} cores",
                  "kernel": run.host.kernel, **run.tools}  # fmt: skip
    yield from (f"{name}={_one_line(value)}" for name, value in facts.items() if value)


def _one_line(value: str) -> str:
    return " ".join(printable(value).replace("\\", "/").split())


def _outcomes(status: Status) -> list[str]:
    """What Allure makes of a test of that status."""
    if status.is_failure:
        return ["failed"]
    return {Status.BROKEN: ["broken"], Status.FLAKY: ["passed"]}.get(status, ["skipped"])


def _labels(status: Status, blame: Blame | None) -> dict[str, str]:
    labels = {"verdict": f"^{status}$"}
    return {**labels, "blame": f"^{blame}$"} if blame else labels


def _pattern(status: Status) -> str:
    return f"(?s){status}: .*"


def _trace(status: Status, blame: Blame | None) -> dict[str, str]:
    """Allure 2 knows no labels: it tells the blame for what is broken by the exception that the trace begins with."""
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
    sections = (f'<section id="{html.escape(name)}"><h2>{html.escape(name)}</h2>\n'
                f"<pre>{html.escape(str(explain(name)))}</pre></section>" for name in catalogue())  # fmt: skip
    return _HTML.format(claims="\n".join(sections))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
