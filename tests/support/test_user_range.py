"""A user number has one owner at a time, and no process of an earlier one."""

from __future__ import annotations

import os
import subprocess

import pytest

from lifsea_testbed.support import user_range

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives itself another user")


@pytest.fixture(autouse=True)
def own_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that no other run takes meanwhile."""
    monkeypatch.setattr(user_range, "_FIRST", 3_000_000 + os.getpid() * 8)
    monkeypatch.setattr(user_range, "_COUNT", 8)


def test_two_owners_have_two_numbers() -> None:
    with user_range.taken() as one, user_range.taken() as other:
        assert one != other


def test_a_process_that_an_earlier_owner_left_is_killed() -> None:
    with user_range.taken() as number:
        left = subprocess.Popen(["sleep", "600"], user=number)
    with user_range.taken() as again:
        assert again == number
        assert user_range.processes_of(number) == []
    assert left.wait(60) < 0


def test_a_number_whose_process_stays_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a disk that does not answer, or whose parent does not take leave of it."""
    with user_range.taken() as number:
        pass
    of = user_range.processes_of
    monkeypatch.setattr(user_range, "processes_of", lambda user: [2**22] if user == number else of(user))
    monkeypatch.setattr(user_range, "_DYING", 0.0)
    with user_range.taken() as other:
        assert other != number
