"""The kernel's log is read as a whole, and what is not in a log without its start is not taken for not logged."""

from __future__ import annotations

import json

import pytest

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import kernel_log
from lifsea_testbed.guest.kernel import Kernel
from tests.support.fakes import FakeShell

FIRST = "5,0,0,-;Linux version 6.1 (x)\n"
RECORDS = FIRST + "6,1,10,-;ACPI: ok\n SUBSYSTEM=acpi\n DEVICE=+acpi:x\n3,2,1500000,-;EXT4-fs error\\x0asecond line\n"
WRAPPED = "6,900,9000000,-;late\n"


def journal(*messages: tuple[int, object]) -> str:
    return "\n".join(json.dumps({"PRIORITY": str(number), "MESSAGE": text}) for number, text in messages) + "\n-- x\n"


def kernel(ring: str = "", dmesg: str = "", entries: str = "", allowed: tuple[str, ...] = ()) -> Kernel:
    return Kernel(FakeShell({"/dev/kmsg": (1, ring), "dmesg --raw": dmesg, "--dmesg": entries, "journalctl": "",
                             "/boot": ""}), allowed)  # fmt: skip


def test_a_record_has_its_priority_its_time_and_all_its_lines() -> None:
    found = kernel(RECORDS).messages()
    assert [(one.priority, one.text) for one in found] == [
        (5, "[    0.000000] Linux version 6.1 (x)"), (6, "[    0.000010] ACPI: ok"),
        (3, "[    1.500000] EXT4-fs error\nsecond line"),
    ]  # fmt: skip


def test_an_error_is_found_unless_the_profile_allows_it() -> None:
    assert kernel(RECORDS).errors() == ["[    1.500000] EXT4-fs error\nsecond line"]
    assert kernel(RECORDS, allowed=("EXT4-fs error",)).errors() == []


def test_where_the_device_cannot_be_read_dmesg_is_and_keeps_lines_that_continue() -> None:
    lines = "<6>[    0.000000] Linux version 6.1\n<3>[    1.0] EXT4-fs error\n continued\n<11>[  2.0] init: failed\n"
    assert kernel(dmesg=lines).errors() == ["[    1.0] EXT4-fs error\n continued", "[  2.0] init: failed"]


def test_where_the_buffer_has_wrapped_the_journal_goes_before_it() -> None:
    entries = journal((5, "Linux version 6.1"), (3, [69, 114, 114]), (6, "[    9.000000] late"))
    assert [one.text for one in kernel(WRAPPED, entries=entries).messages()] == [
        "Linux version 6.1", "Err", "[    9.000000] late"]
    assert kernel(WRAPPED, entries=entries).errors() == ["Err"]


@pytest.mark.parametrize("entries", ["", journal((6, "in the middle"))])
@pytest.mark.parametrize("question", [Kernel.errors, Kernel.crashes_and_denials, Kernel.initramfs_signs])
def test_what_may_have_been_overwritten_is_not_judged(entries: str, question: object) -> None:
    with pytest.raises(NotJudged, match="has wrapped") as caught:
        question(kernel(WRAPPED, entries=entries))  # type: ignore[operator]
    assert caught.value.reason is Reason.IMAGE


def test_an_error_is_one_however_much_was_overwritten() -> None:
    assert kernel(WRAPPED + "3,901,9100000,-;EXT4-fs error\n").errors() == ["[    9.100000] EXT4-fs error"]


def test_crashes_and_denials_are_found_in_both_logs_and_named_once() -> None:
    shell = FakeShell({"/dev/kmsg": FIRST + "6,1,0,-;a[7]: segfault at 0\n6,2,0,-;eth0: link up\n",
                       "journalctl": "a[8]: segfault at 0\nx.service: Main process exited, status=11/SEGV\n"
                       "audit: avc:  denied  { read }\nStarted x.\n"})  # fmt: skip
    assert len(Kernel(shell).crashes_and_denials()) == 4


def test_nonsense_is_no_log() -> None:
    assert kernel_log.parse_records("x\n;\n") is None
    assert kernel_log.parse_journal(["{", "7", '{"MESSAGE": null}']).messages == ()
