"""What the script prints on an instance is read as the answers of its shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lifsea_testbed.errors import CallerError, CommandFailed, NotJudged
from lifsea_testbed.guest import instance_record
from lifsea_testbed.guest.hardware import VisibleHardware
from tests.support.fakes import FakeShell


def ran(shell: str) -> str:
    """The record that the script makes of this host."""
    return subprocess.run([shell], input=instance_record.script(), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_record_of_this_host_answers_every_question_as_its_shell_does(shell: str) -> None:
    recorded = VisibleHardware(instance_record.parse(ran(shell)))
    here = VisibleHardware(FakeShell({"cpuinfo": Path("/proc/cpuinfo").read_text("utf-8")}))
    assert (recorded.processor(), recorded.topology()) == (here.processor(), here.topology())
    assert recorded.features() == here.features() and recorded.memory_nodes() >= 1
    assert recorded.clock_source() and recorded.memory() >= 0


def test_a_record_is_found_among_the_words_of_a_terminal() -> None:
    text = f"$ sh script\r\nWelcome\n{ran('sh')}$ exit\n"
    assert VisibleHardware(instance_record.parse(text)).processors() >= 1


def test_an_answer_is_never_that_of_another_question() -> None:
    text = ran("sh").replace("? ", "? 0", 1)
    with pytest.raises(NotJudged, match="another version"):
        VisibleHardware(instance_record.parse(text)).processor()


def test_a_command_that_failed_there_fails_here() -> None:
    recorded = instance_record.parse(ran("sh").replace("| status 0", "| status 3"))
    with pytest.raises(CommandFailed, match="status 3 on the instance"):
        VisibleHardware(recorded).clock_source()
    assert VisibleHardware(recorded).console() is None


@pytest.mark.parametrize("text", ["", "processor : 0\n", "lifsea-testbed instance record 2\n"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match="no record"):
        instance_record.parse(text)
