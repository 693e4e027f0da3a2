"""Allure: attachments and labels; without --alluredir every call here does nothing."""

from __future__ import annotations

from collections.abc import Callable

import allure

_label: Callable[[str, str], None] = allure.dynamic.label
_description: Callable[[str], None] = allure.dynamic.description


def describe(claim: str, promise: str) -> None:
    """Names the claim that the running test judges."""
    _label("claim", claim)
    _description(promise)


def attach(name: str, text: str) -> None:
    """Attaches a text to the running test."""
    allure.attach(text, name=name, attachment_type=allure.attachment_type.TEXT)
