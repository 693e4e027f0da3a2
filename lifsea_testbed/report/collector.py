"""Collects outcomes during a run, keeps gate.json up to date, and concludes the verdict at the end."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import platform
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import psutil

from lifsea_testbed.disk.image import Image
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.claims import COMES_UP, catalogue
from lifsea_testbed.report import gate, junit, known_issues, markdown
from lifsea_testbed.report.directory import GATE, ReportsDirectory
from lifsea_testbed.report.document import (
    ClaimRecord,
    Document,
    Figure,
    Host,
    ImageRecord,
    RunRecord,
    Shard,
    Verdict,
)
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.known_issues import KnownIssueList
from lifsea_testbed.report.outcome import NOT_UP, Status
from lifsea_testbed.support import host as hosts
from lifsea_testbed.support.whole_file import write_whole

_UNFINISHED = "the run did not come to its end"


class Collector:
    """The outcomes of one run, from all its processes."""

    def __init__(self, context: RunContext, directory: ReportsDirectory, known: KnownIssueList, *, version: str = "",
                 flaky_fails: bool = False) -> None:
        self._context = context
        self._known = known
        self._version = version
        self._flaky_fails = flaky_fails
        self._outcomes: list[TestOutcome] = []
        self._figures: dict[str, list[Figure]] = {}
        self._durations: dict[str, float] = {}
        self._plan = ""
        self._judges: Mapping[str, Collection[str]] = {}
        self._started = time.time()
        self._profile = profiles.load(context.profile)
        self._findings: list[str] = []
        self._troubles: list[str] = []
        self._failures: list[str] = []
        self._directory = directory

    @property
    def path(self) -> Path:
        """The place of gate.json now."""
        return self._directory.work / GATE

    def add(self, outcome: TestOutcome, *, profile: str, version: str = "") -> None:
        """Adds one outcome, judged by that profile, and writes the results so far."""
        if profile != self._profile.name:
            self._profile = profiles.load(profile)
        self._version = self._version or version
        self._outcomes.append(outcome)
        self._unfinished().write(self.path)

    def add_figures(self, figures: Iterable[Figure]) -> None:
        """Adds the figures of one attempt at a test; a later attempt replaces an earlier one."""
        figures = list(figures)
        self._figures[figures[0].test] = figures

    def add_duration(self, test: str, seconds: float) -> None:
        """Adds the duration of one phase of a test (seconds)."""
        self._durations[test] = self._durations.get(test, 0.0) + seconds

    def finish(self, troubles: Iterable[str] = (), failures: Iterable[str] = (), *, plan: str = "",
               findings: Iterable[str] = (), judges: Mapping[str, Collection[str]] | None = None,
               interrupted: str = "") -> Document:
        """Concludes the verdict, writes every report, and returns their document.

        `plan` is the digest of the shard plan, `findings` are the verdicts on the figures, a sentence each, `judges`
        the tests of each claim, whether they were run or not. `interrupted` says what ended the run, if it was ended.
        """
        self._plan, self._findings, self._judges = plan, list(findings), judges or {}
        self._troubles = [*troubles]
        self._failures = [*failures, *(self._flaky() if self._flaky_fails else []), *self._not_up()]
        document = self._concluded(interrupted)
        self._write(document)
        self._write_run()
        return document

    def break_off(self, reason: str, *, interrupted: bool = False) -> Document:
        """Returns the document of a run whose end failed, or was `interrupted`, and writes it if it can.

        It needs little room: if there is none, evidence is removed to make some. Nothing is signed.
        """
        self._troubles += [] if interrupted else [reason]
        document = self._concluded(reason if interrupted else "")
        while True:
            with contextlib.suppress(OSError):
                self._directory.work.mkdir(parents=True, exist_ok=True)
                self.path.with_name(f"{GATE}.minisig").unlink(missing_ok=True)
                self._write(document)
                return document
            if not self._directory.make_room():
                return document

    @property
    def flakes(self) -> dict[str, int]:
        """The tests that passed only at a later attempt, and the number of that attempt."""
        return {test.id: len(test.attempts) for test in gate.records(self._outcomes) if test.status is Status.FLAKY}

    def document(self, verdict: Verdict, why: str, *, troubles: Iterable[str] = (),
                 failures: Iterable[str] = ()) -> Document:
        """Returns gate.json with the results so far."""
        context = self._context
        claims = self._claims()
        part = context.shard
        shard = Shard(index=part.number, count=part.count, plan=self._plan) if part else None
        return Document(
            testbed=_versions()["lifsea-testbed"], verdict=verdict, exit_status=verdict.exit_status,
            why=why, image=_image(context.image, self._version),
            next_image=_image(context.next_image) if context.next_image else None,
            profile=self._profile.name, instance_type=context.instance_type.name,
            firmware=context.firmware, selected=list(context.claims),
            required=list(context.required), shard=shard, runs=[run_record(context, shard)], claims=claims,
            not_judged=gate.not_judged(claims),
            others=gate.records(outcome for outcome in self._outcomes if not outcome.claim and not outcome.hardware),
            hardware=gate.records(outcome for outcome in self._outcomes if outcome.hardware),
            known_issues=known_issues.record(self._known, claims, profile=self._profile.name, version=self._version),
            troubles=list(troubles), failures=list(failures),
        )  # fmt: skip

    def _concluded(self, interrupted: str) -> Document:
        """Returns the document with the verdict on the results so far."""
        context, shard = self._context, self._context.shard
        changed = [] if context.image.unchanged else [f"{context.image.path} changed during the run"]
        troubles, failures = [*self._troubles, *changed], self._failures
        bare = self.document(Verdict.BROKEN, _UNFINISHED)
        parts = [f"this is shard {shard}; gate merge joins it with the others"] if shard else []
        verdict, why = gate.conclude(bare.claims, others=bare.others, hardware=bare.hardware, troubles=troubles,
                                     failures=failures, selected=context.claims, required=context.required,
                                     parts=parts, interrupted=interrupted)  # fmt: skip
        document = self.document(verdict, why, troubles=[*([interrupted] if interrupted else []), *troubles],
                                 failures=failures)  # fmt: skip
        return document.model_copy(update={"finished": not interrupted})

    def _write(self, document: Document) -> None:
        document.write(self.path)
        junit.write(document, self.path.with_name("junit.xml"), durations=self._durations)
        write_whole(self.path.with_name("summary.md"), markdown.summary(document))

    def _unfinished(self) -> Document:
        """The document of the run so far, from which nobody makes a verdict."""
        return self.document(Verdict.BROKEN, _UNFINISHED, troubles=[_UNFINISHED]).model_copy(update={"finished": False})

    def _claims(self) -> list[ClaimRecord]:
        """The result of each claim of the profile, or of each selected one."""
        wanted = self._context.claims or self._profile.claims
        promises = {claim: catalogue()[claim].promise for claim in self._profile.claims if claim in wanted}
        figures = [each for taken in self._figures.values() for each in taken]
        return gate.settle(promises, self._outcomes, figures, self._judges)

    def _flaky(self) -> list[str]:
        return [f"flaky: {', '.join(self.flakes)}"] if self.flakes else []

    def _not_up(self) -> list[str]:
        """Why the image did not come up for some tests, unless its claim is broken for that: for others it may have."""
        if any(claim.id == COMES_UP and claim.status.is_wrong and not claim.status.is_kept for claim in self._claims()):
            return []
        return [outcome.why for outcome in self._outcomes if outcome.why.startswith(NOT_UP)][:1]

    def _write_run(self) -> None:
        """Writes run.json: the values that differ from run to run, in seconds and MiB."""
        times = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "duration": round(time.time() - self._started, 1),
            "accelerator": self._context.accelerator.why,
            "guest_memory": self._context.memory,
            "image": str(self._context.image.path),
            "findings": self._findings,
            "tests": {test: round(self._durations[test], 3) for test in sorted(self._durations)},
        }
        write_whole(self.path.with_name("run.json"), json.dumps(times, indent=2) + "\n")


def run_record(context: RunContext, shard: Shard | None = None) -> RunRecord:
    """Returns the host and the tools of this process."""
    return RunRecord(shard=shard, host=host(), accelerator=str(context.accelerator.kind),
                     tools={**_versions(), "qemu": context.emulator.version})  # fmt: skip


@functools.cache
def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("lifsea-testbed", "pytest")}
    return {**packages, "python": platform.python_version()}


@functools.cache
def host() -> Host:
    """Returns the description of the host."""
    return Host(processor=hosts.processor_name(), cores=hosts.processors(), kernel=platform.release(),
                memory=psutil.virtual_memory().total >> 20)  # fmt: skip


def _image(image: Image, version: str = "") -> ImageRecord:
    return ImageRecord(name=image.path.name, sha256=image.sha256, format=str(image.format), version=version,
                       virtual_size=image.virtual_size, file_size=image.file_size)  # fmt: skip
