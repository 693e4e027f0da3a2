"""Allure: attachments, labels, and the word of the gate; without --alluredir every call here does nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import allure

from lifsea_testbed.profiles.claims import Claim
from lifsea_testbed.report.outcome import Status
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable

_LONGEST_TITLE = 200

_label: Callable[[str, str], None] = allure.dynamic.label
_description: Callable[[str], None] = allure.dynamic.description
_link: Callable[..., None] = allure.dynamic.link
_attach_file: Callable[..., None] = allure.attach.file


def name(claim: Claim, *, page: str) -> None:
    """Names the claim that the running test judges; `page` is where all claims are explained.

    Allure 3 makes a link of an address that has a scheme, and of no other; in a description it does.
    """
    _label("claim", claim.id)
    if "://" in page:
        _link(f"{page}#{claim.id}", link_type="claim", name=claim.id)


def describe(claim: Claim, *, page: str) -> None:
    """Puts the promise, its source and its explanation at the head of the running test."""
    _description(f"{claim.promise}\n\nClaim [{claim.id}]({page}#{claim.id}), source: {claim.source}")


class Steps:
    """Shows each step of a machine in the test, or the fixture, that it belongs to; a question repeated is one step."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, title: str) -> AbstractContextManager[object]:
        """Opens the step of that title."""
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


def tell(listener: Any, status: Status, *, why: str, blame: str, issue: str) -> None:
    """Gives the result of the test that has just ended the word that every other report has for it.

    `listener` is the plugin of that name of allure-pytest, or nothing.
    """
    if listener is None or (result := listener.allure_logger.get_test(None)) is None:
        return
    _label("verdict", str(status))
    if blame:
        _label("blame", blame)
    if issue:
        _link(issue, link_type="issue", name="known issue")
    if status is Status.PASSED:
        return
    details = result.statusDetails
    if details is None:
        from allure_commons.model2 import StatusDetails

        details = result.statusDetails = StatusDetails()
    details.message = f"{status}: {why}"
    details.known = status in (Status.KNOWN, Status.EXPIRED)
    details.flaky = status is Status.FLAKY
