"""junit.xml, in the form that Jenkins (xUnit plugin, junit-10.xsd) and GitLab both read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from lifsea_testbed.errors import Blame
from lifsea_testbed.report import gate
from lifsea_testbed.report.document import ClaimRecord, Document, TestRecord
from lifsea_testbed.report.outcome import Status, in_words
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.whole_file import write_whole

#: The longest text of an explanation (characters); the evidence has all of it.
_LONGEST = 16_000
_EXPLANATION = "explanation.txt"
_Case = tuple[ClaimRecord | None, TestRecord]


def write(document: Document, path: Path, *, durations: Mapping[str, float], reports: Path | None = None) -> None:
    """Writes the document as JUnit XML, with the duration (seconds) of each test where it is known.

    The evidence is below `reports`, by default the directory of the file.
    """
    cases: list[_Case] = [(claim, test) for claim in document.claims for test in (*claim.tests, *_missing(claim))]
    cases += [(None, test) for test in (*document.others, *document.hardware)]
    suite = ElementTree.Element("testsuite", {
        "name": printable(f"{document.profile} ({document.image.name})"), "tests": str(len(cases)),
        "failures": str(_count(cases, Status.FAILED, Status.EXPIRED)), "errors": str(_count(cases, Status.BROKEN)),
        "skipped": str(_count(cases, Status.KNOWN, Status.NOT_JUDGED)),
        "time": f"{sum(durations.values()):.3f}",
    })  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("verdict", gate.headline(document)), ("why", document.why),
                        ("sha256", document.image.sha256)):
        ElementTree.SubElement(properties, "property", {"name": name, "value": printable(value)})
    suite.extend(_case(claim, test, reports or path.parent, durations) for claim, test in cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    write_whole(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode())


def _missing(claim: ClaimRecord) -> Iterator[TestRecord]:
    """The judges of which there is no result, as tests that judged nothing."""
    for test in sorted(set(claim.missing) - {test.id for test in claim.tests}):
        yield TestRecord(id=test, status=Status.NOT_JUDGED, why=gate.NOT_RUN, attempts=[])


def _count(cases: Iterable[_Case], *statuses: Status) -> int:
    return sum(test.status in statuses for _, test in cases)


def _case(claim: ClaimRecord | None, test: TestRecord, reports: Path,
          durations: Mapping[str, float]) -> ElementTree.Element:
    where, _, name = test.id.partition("::")
    case = ElementTree.Element("testcase", {
        "classname": printable(claim.id if claim else where.removesuffix(".py").replace("/", ".")),
        "name": printable(name or where),
        "time": f"{durations.get(test.id, 0.0):.3f}",
    })  # fmt: skip
    kind = in_words(test.status, test.reason)
    message = f"{kind}: {test.why}"
    text = _explanation(test, reports)
    if test.status.is_failure:
        _add(case, "failure", message, str(test.blame or Blame.PRODUCT), text)
    elif test.status is Status.BROKEN:
        _add(case, "error", message, str(test.blame or Blame.HARNESS), text)
    elif test.status in (Status.KNOWN, Status.NOT_JUDGED):
        _add(case, "skipped", message, kind, "")
    elif test.status is Status.FLAKY:
        element = "flakyFailure" if test.attempts[0].status.is_failure else "flakyError"
        _add(case, element, message, str(test.blame or ""), "")
    output = [f"evidence: {folder}" for folder in test.evidence]
    output += [f"claim {claim.id}: {claim.promise}"] if claim else []
    ElementTree.SubElement(case, "system-out").text = printable("\n".join(output))
    return case


def _add(case: ElementTree.Element, name: str, message: str, kind: str, text: str) -> None:
    ElementTree.SubElement(case, name, {"message": printable(message), "type": kind}).text = printable(text or message)


def _explanation(test: TestRecord, reports: Path) -> str:
    paths = [reports / folder / _EXPLANATION for folder in test.evidence]
    texts = [path.read_text("utf-8", "replace") for path in paths if path.is_file() and not path.is_symlink()]
    return "\n".join(texts)[:_LONGEST]
