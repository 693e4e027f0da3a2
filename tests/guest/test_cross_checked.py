"""A guest's answers are compared with its disk: one that hides what lies there fails, whichever program lies."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import AnswersDiffer, GuestFailure, NotJudged, Reason
from lifsea_testbed.guest import cross_checked, offline
from lifsea_testbed.guest.cross_checked import QUESTIONS, Agreement, CrossCheckedGuest, Road
from lifsea_testbed.guest.packages import Package


class Subject:
    """Answers its questions with what it was given, or raises that."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = self.answers[name]

        def asked(*_: object) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return asked


def guest(**answers: Any) -> Any:
    return SimpleNamespace(files=Subject(**answers), packages=Subject(**answers), units=Subject(**answers))


def checked(asked: Any, disk: Any | None) -> tuple[CrossCheckedGuest, list[cross_checked.Answered]]:
    answers: list[cross_checked.Answered] = []
    return CrossCheckedGuest(asked, disk, answers.append), answers


def test_a_program_that_hides_a_file_is_found_and_both_answers_are_named() -> None:
    made, _ = checked(guest(setuid=["/usr/bin/su"]), guest(setuid=["/usr/bin/su", "/usr/sbin/sshd"]))
    with pytest.raises(AnswersDiffer) as caught:
        made.files.setuid()
    assert "files.setuid: the disk alone has [/usr/sbin/sshd]" in caught.value.happened
    assert "asked in the guest: [/usr/bin/su]\nread from its disk: [/usr/bin/su, /usr/sbin/sshd]" \
        in caught.value.evidence  # fmt: skip
    assert isinstance(caught.value, GuestFailure)


def test_what_lies_in_memory_is_in_the_guest_alone() -> None:
    made, answers = checked(guest(named=["a.service", "run.mount"]), guest(named=["a.service"]))
    assert made.units.named(".*") == ["a.service", "run.mount"]
    assert [(one.question, one.roads, one.why) for one in answers] == [("units.named", (Road.GUEST, Road.DISK), "")]


@pytest.mark.parametrize(("asked", "read"), [(["a"], ["a", "b"]), (["a", "b"], ["a"])])
def test_packages_are_the_same_ones(asked: list[str], read: list[str]) -> None:
    made, _ = checked(guest(installed=asked), guest(installed=read))
    with pytest.raises(AnswersDiffer, match="alone has \\[b\\]"):
        made.packages.installed()


def test_a_package_is_named_with_its_version() -> None:
    made, _ = checked(guest(installed=[]), guest(installed=[Package(name="rpm", version="4-1")]))
    with pytest.raises(AnswersDiffer, match=r"the disk alone has \[rpm 4-1\]"):
        made.packages.installed()


def test_a_link_leads_to_one_place() -> None:
    made, _ = checked(guest(link_target="/var/home"), guest(link_target="/home"))
    with pytest.raises(AnswersDiffer, match="the guest answers /var/home, its disk /home"):
        made.files.link_target("/home")


def test_a_disk_that_cannot_be_read_leaves_the_guest_with_the_reason() -> None:
    made, answers = checked(guest(setuid=[]), guest(setuid=NotJudged("partition 3 holds XFS", Reason.IMAGE)))
    assert made.files.setuid() == []
    assert [(one.roads, one.why) for one in answers] == [((Road.GUEST,), "partition 3 holds XFS")]


def test_what_the_guest_has_no_tool_for_is_read_from_its_disk() -> None:
    made, answers = checked(guest(setuid=NotJudged("no getcap", Reason.IMAGE)), guest(setuid=["/x"]))
    assert made.files.setuid() == ["/x"]
    assert [(one.roads, one.why) for one in answers] == [((Road.DISK,), "no getcap")]


def test_what_neither_can_answer_is_not_judged() -> None:
    made, _ = checked(guest(setuid=NotJudged("no getcap", Reason.IMAGE)), guest(setuid=NotJudged("XFS", Reason.IMAGE)))
    with pytest.raises(NotJudged, match="no getcap"):
        made.files.setuid()


def test_a_guest_without_a_shell_is_read_once() -> None:
    made, answers = checked(guest(setuid=["/x"]), None)
    assert made.files.setuid() == ["/x"]
    assert [one.roads for one in answers] == [(Road.DISK,)]


def test_other_questions_are_the_guests() -> None:
    made, answers = checked(guest(failed=["x"]), guest())
    assert made.units.failed() == ["x"]
    assert answers == []


def test_many_findings_are_counted() -> None:
    made, _ = checked(guest(matching=[]), guest(matching=[f"/{number}" for number in range(20)]))
    with pytest.raises(AnswersDiffer, match=r"/7 and 12 more\]"):
        made.files.matching(["*"])


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_each_question_is_one_that_a_disk_answers(question: str) -> None:
    subject, _, name = question.partition(".")
    disk = getattr(offline, f"Offline{subject.capitalize()}")
    assert hasattr(CrossCheckedGuest, subject) and callable(getattr(disk, name))
    assert QUESTIONS[question] in Agreement
