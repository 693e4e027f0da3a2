"""Allure: attachments, labels, and the word of the gate; without --alluredir every call here does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import allure

from lifsea_testbed.report.verdict import Status

_label: Callable[[str, str], None] = allure.dynamic.label
_description: Callable[[str], None] = allure.dynamic.description
_link: Callable[..., None] = allure.dynamic.link
_attach_file: Callable[..., None] = allure.attach.file


def describe(claim: str, promise: str) -> None:
    """Names the claim that the running test judges."""
    _label("claim", claim)
    _description(promise)


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
