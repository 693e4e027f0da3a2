"""Merges the gate.json of each shard into one verdict: only a complete set of shards of one image can pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lifsea_testbed.errors import CallerError
from lifsea_testbed.report import gate
from lifsea_testbed.report.document import (
    ClaimRecord,
    Document,
    ImageRecord,
    IssueRecord,
    IssueState,
    KnownIssues,
    Shard,
    TestRecord,
)

#: In order of precedence, the last the highest: an issue that any shard saw was seen.
_STATES = (IssueState.NOT_APPLICABLE, IssueState.GONE, IssueState.NOT_SEEN, IssueState.SEEN, IssueState.EXPIRED)


#: The lists of tests of a document that judge no claim.
_BESIDE = ("others", "hardware")


def merge(documents: Sequence[tuple[str, Document]]) -> Document:
    """Returns the verdict over the documents, each with a name for messages, in any order.

    All must have the image, profile, selection and version of the test bed of the first shard. A foreign one is left
    out; then, and if a shard is missing or given twice, the best verdict is *not judged*. A shard that did not come to
    its end, or does not know the plan of all shards, is a trouble: the best verdict is *broken*.

    Raises:
        CallerError: there are no documents, or one is not a shard.
    """
    if not documents:
        raise CallerError("there is nothing to merge", hint="give the gate.json of each shard")
    if whole := [name for name, document in documents if document.shard is None]:
        raise CallerError(f"{whole[0]}: not the gate.json of a shard", hint="it was run without --shard")
    documents = sorted(documents, key=lambda pair: (_index(pair[1]), pair[1].text()))
    unfinished = [f"{name}: {why}" for name, document in documents if (why := _unfinished(document))]
    first = next((document for _, document in documents if not _unfinished(document)), documents[0][1])
    ours = [document for _, document in documents if not _differences(first, document)]
    foreign = [f"{name} is foreign: another {', '.join(differences)}" for name, document in documents
               if (differences := _differences(first, document))]  # fmt: skip
    parts = [*foreign, *_gaps(ours)]
    claims = _claims(ours)
    others, hardware = ([test for document in ours for test in getattr(document, kind)] for kind in _BESIDE)
    troubles = _unique([*unfinished, *(trouble for document in ours for trouble in document.troubles)])
    failures = _unique([failure for document in ours for failure in document.failures])
    verdict, why = gate.conclude(claims, others=others, hardware=hardware, troubles=troubles, failures=failures,
                                 selected=first.selected, required=first.required, parts=parts)  # fmt: skip
    return first.model_copy(update={
        "verdict": verdict, "exit_status": verdict.exit_status, "why": why, "shard": None, "claims": claims,
        "not_judged": gate.not_judged(claims), "others": _joined(others), "hardware": _joined(hardware),
        "finished": not unfinished, "troubles": troubles, "failures": failures, "image": _image(ours),
        "runs": [run for document in ours for run in document.runs], "known_issues": _known(ours, claims),
    })  # fmt: skip


def moved(document: Document, prefix: str) -> Document:
    """Returns the document with that folder before the paths of its evidence."""
    claims = [claim.model_copy(update={"tests": _moved(claim.tests, prefix)}) for claim in document.claims]
    beside = {kind: _moved(getattr(document, kind), prefix) for kind in _BESIDE}
    return document.model_copy(update={"claims": claims, **beside})


def _moved(tests: Sequence[TestRecord], prefix: str) -> list[TestRecord]:
    return [test.model_copy(update={"evidence": [f"{prefix}/{folder}" for folder in test.evidence]}) for test in tests]


def _index(document: Document) -> int:
    return document.shard.index if document.shard else 0


def _unfinished(document: Document) -> str:
    """Why nothing is known of what the shard left out; empty for a shard that came to its end."""
    if not document.finished:
        return f"shard {document.shard} did not come to its end"
    known = document.shard and document.shard.plan
    return "" if known else f"shard {document.shard} has no plan of the shards: it collected no tests"


def _differences(first: Document, other: Document) -> list[str]:
    """The names of the properties in which the other document differs from the first; one without a plan has any."""
    pairs = {
        "image": (first.image.sha256, other.image.sha256),
        "next image": tuple(document.next_image and document.next_image.sha256 for document in (first, other)),
        "profile": (first.profile, other.profile), "selection": (first.selected, other.selected),
        "requirement": (sorted(first.required), sorted(other.required)),
        "instance type": (first.instance_type, other.instance_type),
        "firmware": (first.firmware, other.firmware),
        "version of the test bed": (first.testbed, other.testbed),
        "number of shards": tuple(document.shard and document.shard.count for document in (first, other)),
        "plan of shards": tuple(_plan(document, first) for document in (first, other)),
    }  # fmt: skip
    return [name for name, (one, two) in pairs.items() if one != two]


def _plan(document: Document, first: Document) -> str:
    return ((document.shard and document.shard.plan) or (first.shard and first.shard.plan)) or ""


def _gaps(documents: Sequence[Document]) -> list[str]:
    shards = Counter(str(document.shard) for document in documents)
    count = documents[0].shard.count if documents[0].shard else 1
    wanted = [str(Shard(index=index, count=count)) for index in range(1, count + 1)]
    return [*(f"shard {name} missing" for name in wanted if name not in shards),
            *(f"shard {name} is given {times} times" for name, times in sorted(shards.items()) if times > 1),
            *(f"shard {name} does not exist" for name in sorted(shards) if name not in wanted)]  # fmt: skip


def _claims(documents: Sequence[Document]) -> list[ClaimRecord]:
    promises = {claim.id: claim.promise for document in documents for claim in document.claims}
    return [_claim(name, promise, [claim for document in documents for claim in document.claims if claim.id == name])
            for name, promise in promises.items()]  # fmt: skip


def _claim(name: str, promise: str, found: Sequence[ClaimRecord]) -> ClaimRecord:
    figures = [figure for claim in found for figure in claim.figures]
    judges = [test for claim in found for test in claim.missing]
    return gate.judged(name, promise, _joined([test for claim in found for test in claim.tests]), figures, judges)


def _joined(tests: Sequence[TestRecord]) -> list[TestRecord]:
    return sorted(tests, key=lambda test: (test.id, test.status.gravity))


def _image(documents: Sequence[Document]) -> ImageRecord:
    """The image, from a shard that knows its version, if there is one."""
    versions = [document.image for document in documents if document.image.version]
    return (versions or [documents[0].image])[0]


def _known(documents: Sequence[Document], claims: Sequence[ClaimRecord]) -> KnownIssues | None:
    found = [document.known_issues for document in documents if document.known_issues]
    if not found:
        return None
    by_link: dict[tuple[str, str], list[IssueRecord]] = {}
    for known in found:
        for issue in known.issues:
            by_link.setdefault((issue.claim, issue.link), []).append(issue)
    kept = {claim.id for claim in claims if claim.status.is_kept}
    return KnownIssues(as_of=max(known.as_of for known in found),
                       issues=[_issue(records, kept) for records in by_link.values()])  # fmt: skip


def _issue(records: Sequence[IssueRecord], kept: set[str]) -> IssueRecord:
    """Joins the states of one issue; its claim is kept only if the tests in all shards passed."""
    furthest = max(records, key=lambda record: _STATES.index(record.state))
    applies = furthest.state in (IssueState.GONE, IssueState.NOT_SEEN)
    state = (IssueState.GONE if furthest.claim in kept else IssueState.NOT_SEEN) if applies else furthest.state
    return furthest.model_copy(update={"state": state})


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
