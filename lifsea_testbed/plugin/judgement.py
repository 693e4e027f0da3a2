"""The judgement on a test by the exception that ended it, with the exceptions that are pytest's own."""

from __future__ import annotations

import unittest
from dataclasses import replace

import pytest

from lifsea_testbed.errors import Blame, GuestFailure, Reason
from lifsea_testbed.plugin.items import claim_of, judges_hardware
from lifsea_testbed.profiles.claims import COMES_UP
from lifsea_testbed.report.outcome import NOT_UP, Judgement, Status, first_line, judge

#: The exceptions by which a test ends before it has judged anything, without a reason that counts.
NOT_RUN = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)
#: The modules whose calls of pytest.fail() are about the test, not about the image: a time limit, a bad fixture.
_HARNESS = frozenset({"pytest_timeout", "_pytest.fixtures", "_pytest.python"})
_RAISED_IN = "_pytest.outcomes"


def judge_test(item: pytest.Item, error: BaseException | None) -> Judgement:
    """Returns the judgement on a test that ended with that exception, or without one.

    A test of the hardware's model never judges the image: whatever fails in it is broken. An image that has not come up
    breaks the claim that it does; every other test judges nothing.
    """
    if isinstance(error, GuestFailure) and error.kept_image_down and claim_of(item) != COMES_UP:
        return Judgement(status=Status.NOT_JUDGED, why=f"{NOT_UP}: {error.happened}", reason=Reason.IMAGE)
    judgement = _judge(error)
    if judges_hardware(item) and judgement.status is Status.FAILED:
        return replace(judgement, status=Status.BROKEN, blame=Blame.HARNESS)
    return judgement


def _judge(error: BaseException | None) -> Judgement:
    if isinstance(error, NOT_RUN):
        return Judgement(status=Status.NOT_JUDGED, why=f"not run: {first_line(error)}")
    if not isinstance(error, pytest.fail.Exception):
        return judge(error)
    if _caller(error) in _HARNESS:
        return Judgement(status=Status.BROKEN, blame=Blame.HARNESS, why=first_line(error))
    return Judgement(status=Status.FAILED, blame=Blame.PRODUCT, why=first_line(error))


def _caller(error: BaseException) -> str:
    """The module that called pytest.fail()."""
    modules, step = [""], error.__traceback__
    while step is not None:
        modules.append(str(step.tb_frame.f_globals.get("__name__", "")))
        step = step.tb_next
    return next(module for module in reversed(modules) if module != _RAISED_IN)
