"""ttyS0: every line with its time, and the fatal lines."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifsea_testbed.console import fatal_lines, port_frames
from lifsea_testbed.console import transcript as transcript_module
from lifsea_testbed.console.channel import PortChannel
from lifsea_testbed.console.cloud_assistant import CloudAssistant
from lifsea_testbed.console.serial_channel import SerialChannel
from lifsea_testbed.console.serial_frames import Splitter
from lifsea_testbed.console.transcript import LineReader, Measured, Transcript
from lifsea_testbed.errors import ChannelError, GuestCrashed, HostError, TestbedError, TimerStarved, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness


@dataclass(frozen=True, kw_only=True)
class Console:
    guest: socket.socket
    transcript: Transcript
    liveness: Liveness
    file: Path


@pytest.fixture
def console(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Console]:
    """A console; with a true parameter, that of a machine from which the host withheld the processor."""
    guest, host = socket.socketpair()
    liveness = Liveness()
    starved = Measured(host_is_at_fault=True, text="19 s of 20 s") if getattr(request, "param", False) else Measured()
    transcript = Transcript(host, liveness=liveness, file=tmp_path / "transcript.txt", measure=lambda line: starved)
    transcript.start(time.monotonic())
    yield Console(guest=guest, transcript=transcript, liveness=liveness, file=tmp_path / "transcript.txt")
    guest.close()
    transcript.close()
    liveness.close()


FATAL = [
    ("[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs", "kernel panic"),
    ("Kernel panic - not syncing: Attempted to kill init!", "kernel panic"),
    ("[    0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.",
     "timer does not tick"),
    ("[   22.4] rcu: rcu_sched kthread timer wakeup didn't happen for 5251 jiffies! g-1179", "timer does not tick"),
    ("[   12.0] BUG: unable to handle page fault for address: 0000", "kernel oops"),
    ("[    1.0][  T123] kernel BUG at fs/ext4/inode.c:1!", "kernel bug"),
    ("[  100.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "soft lock-up"),
    ("[  100.0] watchdog: Watchdog detected hard LOCKUP on cpu 1", "hard lock-up"),
    ("[   60.0] rcu: INFO: rcu_preempt self-detected stall on CPU", "RCU stall"),
    ("[   60.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "RCU stall"),
    ("[   60.0] INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-.... }", "RCU stall"),
    ("[  120.1] INFO: task kworker/0:1:12 blocked for more than 120 seconds.", "hung task"),
    ("You are in emergency mode. After logging in, type", "emergency mode"),
    ("Cannot open access to console, the root account is locked.", "emergency mode"),
    ("Entering emergency mode. Exit the shell to continue.", "emergency mode"),
    ("[!!!!!!] Failed to mount API filesystems.", "init stopped"),
    ("[    3.141592] systemd[1]: Freezing execution.", "init stopped"),
    ("systemd[1]: Freezing execution", "init stopped"),
    ("(initramfs) ", "initramfs shell"),
    (":/# ", "initramfs shell"),
    ("grub rescue> ", "boot loader stopped"),
    ("error: file `/boot/vmlinuz-5.10.134-lifsea' not found.", "boot loader stopped"),
    ("error: ../../grub-core/fs/fshelp.c:257:file `/ostree/a-0/vmlinuz-6.1' not found.", "boot loader stopped"),
    ("error: you need to load the kernel first.", "boot loader stopped"),
    ("error: ../../grub-core/loader/i386/linux.c:1231:you need to load the kernel first.", "boot loader stopped"),
    ("No bootable device.", "firmware found nothing to boot"),
    ("BdsDxe: No bootable option or device was found.", "firmware found nothing to boot"),
    ("UEFI Interactive Shell v2.2", "firmware found nothing to boot"),
    ("[    1.909480] int3: 0000 [#1] SMP", "kernel oops"),
    ("[    2.0] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]", "kernel oops"),
    ("[   50.1] Out of memory and no killable processes...", "out of memory with nothing to kill"),
    ("[   50.1] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
     "task_memcg=/system.slice/containerd.service,task=containerd,pid=300,uid=0", "out of memory in a system unit"),
    ("[    1.0] VFS: Cannot open root device \"vda4\" or unknown-block(0,0): error -6", "root file system not mounted"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "name"), FATAL)
def test_a_fatal_line_is_known(line: str, name: str) -> None:
    found = fatal_lines.find(line)
    assert found is not None and found.name == name


def test_every_kind_of_fatal_line_is_tried() -> None:
    assert {kind.name for kind in fatal_lines.TABLE} == {name for _, name in FATAL}


def test_a_hundred_thousand_streams_upset_nothing() -> None:
    """Frames, look-alikes and rubbish, cut anywhere: no exception but the protocol's own, no line without a bound."""
    dice = random.Random(3)
    words = [b"channel ", b"0123456789abcdef ", b"result ", b"hello ", b"\x1e", b"\n", b"\r\n", b"7 ", b"\x1b[2J"]
    for _ in range(100_000):
        stream = b"".join(dice.choices(words, k=dice.randrange(12))) + dice.randbytes(dice.randrange(6))
        with contextlib.suppress(ChannelError):
            port_frames.parse_header(stream, "0123456789abcdef")
        text, _ = Splitter().feed(stream)
        reader = LineReader()
        lines = [line for at in range(0, len(text), 7) for line in reader.feed(text[at:at + 7], 0.0)] + reader.flush()
        assert not any("\x1b" in line.text or "\n" in line.text for line in lines)


@pytest.mark.parametrize("line", [
    "", "login: ", "[    5.0] oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/kubepods.slice/pod1,task=java",
    "audit: user typed 'Kernel panic - not syncing' in a file name",
    "[    0.5] Kernel command line: root=/dev/vda4 panic=1", "error: no such file", "Reached target emergency.target",
    "[    1.0] Oopsie: a process of that name", "error: file `/boot/grub/fonts/unicode.pf2' not found.",
    "error: file `/boot/grub/linux-theme/font.pf2' not found.", "[    9.000000] systemd[1]: Reached target Freezing",
    "root@node:/# ls", "user:/# ", "audit: a file named Entering emergency mode. Exit the shell",
])  # fmt: skip
def test_what_only_looks_fatal_is_not(line: str) -> None:
    assert fatal_lines.find(line) is None


def test_a_line_has_the_time_of_its_first_byte() -> None:
    reader = LineReader()
    assert reader.feed(b"Welc", 1.0) == []
    (line,) = reader.feed(b"ome\r\n", 2.0)
    assert (line.at, line.text) == (1.0, "Welcome")
    assert str(line) == "[    1.000] Welcome"


def test_a_prompt_without_an_end_is_not_lost() -> None:
    reader = LineReader()
    reader.feed(b"one\ngrub> ", 1.0)
    assert reader.unfinished == "grub> "
    assert [line.text for line in reader.flush()] == ["grub> "]


def test_a_line_without_end_is_ended() -> None:
    reader = LineReader()
    lines = [line for _ in range(40) for line in reader.feed(b"x" * 1000, 0.0)]
    assert lines and all(len(line.text) <= 20_000 for line in lines)


def test_lines_are_kept_written_and_found(console: Console) -> None:
    console.guest.sendall(b"first\nsecond\n")
    line = console.transcript.wait_for("^sec", Deadline.after(10))
    assert line.text == "second"
    assert [each.text for each in console.transcript.since()] == ["first", "second"]
    console.guest.close()
    console.transcript.close()
    assert [text.split("] ")[1] for text in console.file.read_text().splitlines()] == ["first", "second"]


def test_waiting_for_a_line_ends(console: Console) -> None:
    console.guest.sendall(b"something else\n")
    with pytest.raises(WaitTimedOut, match="no line matched") as caught:
        console.transcript.wait_for("never", Deadline.after(0.3))
    assert "something else" in caught.value.evidence


def test_a_panic_ends_every_wait_at_once(console: Console) -> None:
    console.guest.sendall(b"[    1.0] Kernel panic - not syncing: gone\n[    1.0] Call Trace:\n")
    started = time.monotonic()
    with pytest.raises(GuestCrashed, match="kernel panic") as caught:
        console.transcript.wait_for("login:", Deadline.after(60))
    assert time.monotonic() - started < 10.0
    assert "Call Trace" in caught.value.evidence


@pytest.mark.parametrize("wait", ["line", "prompt", "port", "serial", "assistant", "pause"])
def test_the_call_trace_of_a_panic_is_in_the_error_of_every_wait(console: Console, wait: str) -> None:
    """Each access method waits in one of these ways; the trace follows the panic's line a moment later."""
    ours, theirs = socket.socketpair()
    deadline, live = Deadline.after(60), console.liveness
    port, assistant = PortChannel(ours, liveness=live), CloudAssistant(ours.dup(), liveness=live)
    waits: dict[str, Callable[[], object]] = {
        "line": lambda: console.transcript.wait_for("login:", deadline),
        "prompt": lambda: console.transcript.wait_for_prompt(re.compile("login:"), 0, deadline),
        "port": lambda: port.run("true", deadline=deadline),
        "serial": lambda: SerialChannel(console.transcript, liveness=live).run("true", deadline=deadline),
        "assistant": lambda: assistant.answers(deadline),
        "pause": lambda: live.pause(60.0, deadline),
    }

    def panic() -> None:
        console.guest.sendall(b"[    1.0] Kernel panic - not syncing: gone\n")
        time.sleep(0.1)
        console.guest.sendall(b"[    1.0] Call Trace:\n[    1.0]  panic+0x108/0x2f0\n")

    thread = threading.Timer(0.1, panic)
    thread.start()
    with pytest.raises(GuestCrashed, match="kernel panic") as caught:
        waits[wait]()
    thread.join()
    port.close()
    assistant.close()
    theirs.close()
    assert "panic+0x108/0x2f0" in caught.value.evidence


def test_a_reader_that_fails_ends_every_wait_with_its_error(console: Console) -> None:
    def fail(frame: object) -> bool:
        raise RuntimeError("the handler of frames failed")

    console.transcript.set_frame_handler(fail)
    console.guest.sendall(b"\x1e0123456789abcdef end 1 0\n")
    with pytest.raises(TestbedError, match=r"not read any more: RuntimeError\('the handler of frames") as caught:
        console.transcript.wait_for("login:", Deadline.after(30))
    assert not isinstance(caught.value, HostError) and "in fail" in caught.value.evidence


def test_a_disk_that_is_full_ends_every_wait_as_the_hosts_fault(console: Console, tmp_path: Path) -> None:
    guest, host = socket.socketpair()
    transcript = Transcript(host, liveness=console.liveness, file=Path("/dev/full"))
    transcript.start(time.monotonic())
    guest.sendall(b"a line\n")
    with pytest.raises(HostError, match="cannot be recorded in /dev/full: No space left on device"):
        console.transcript.wait_for("login:", Deadline.after(30))
    guest.close()
    transcript.close()


def test_keys_that_the_guest_does_not_read_end_at_the_deadline(console: Console) -> None:
    with pytest.raises(WaitTimedOut, match=r"did not read its input for 0.2 s on the console"):
        console.transcript.transmit(bytes(1 << 24), Deadline.after(0.2))


def test_keys_of_one_thread_do_not_disturb_the_reader(console: Console) -> None:
    """The guest echoes what it reads, slowly enough that the socket is full in both directions again and again."""
    keys, echoed = b"0123456789abcde\n" * 40_000, 0

    def echo() -> None:
        nonlocal echoed
        while echoed < len(keys):
            data = console.guest.recv(1 << 14)
            console.guest.sendall(data)
            echoed += len(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    console.transcript.transmit(keys, Deadline.after(60))
    thread.join(60)
    console.guest.sendall(b"done\n")
    console.transcript.wait_for("^done", Deadline.after(60))
    assert {line.text for line in console.transcript.since()} == {"0123456789abcde", "done"}


@pytest.mark.parametrize("line", [
    "[    0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!",
    "[   22.4] rcu: rcu_sched kthread timer wakeup didn't happen for 5251 jiffies! g-1179 f0x0 RCU_GP_WAIT_FQS(5)",
])
@pytest.mark.parametrize("console", [True, False], indirect=True)
def test_a_timer_without_ticks_is_the_hosts_fault_where_that_was_measured(
    console: Console, line: str, request: pytest.FixtureRequest
) -> None:
    console.guest.sendall(line.encode() + b"\n")
    starved = request.node.callspec.params["console"]
    with pytest.raises(TimerStarved if starved else GuestCrashed, match="timer does not tick") as caught:
        console.transcript.wait_for("login:", Deadline.after(60))
    assert caught.value.evidence.startswith("19 s of 20 s") is starved


BEHIND = [
    b"node login: ", b"root@node:~# ", b"\r[  **] A start job is running for x (5s / no limit)\r",
    b"[  OK  ] Started a unit with \x1b[0mno end", b"\x1b[K[ *** ] (2 of 3) A start job \r\x1b[K",
]
MESSAGES = [b"[  600.123456] INFO: task a:1 blocked for more than 120 seconds.",
            b"[    1.000000][  T12] kernel BUG at a.c:1!", b"[12345.654321] Kernel panic - not syncing: gone"]


@pytest.mark.parametrize("before", BEHIND)
@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_kernel_is_found_behind_an_unfinished_line_and_has_its_own_time(
    before: bytes, message: bytes
) -> None:
    for cut in range(1, len(message)):
        reader = LineReader()
        assert not [line for line in reader.feed(before, 20.0) if fatal_lines.find(line.text)]
        reader.feed(message[:cut], 600.0)
        *_, line = reader.feed(message[cut:] + b"\r\n", 601.0)
        assert fatal_lines.find(line.text) and (line.at, line.text) == (600.0, message.decode())


@pytest.mark.parametrize("before", [b"node login: ", b"Password: ", b"A start job is running\r", b"\r\r"])
def test_without_time_stamps_it_is_found_behind_a_login_prompt_and_a_carriage_return(before: bytes) -> None:
    reader = LineReader()
    reader.feed(b"one\n" + before, 20.0)
    *_, line = reader.feed(b"Kernel panic - not syncing: gone\r\n", 600.0)
    assert fatal_lines.find(line.text) and line.at == 600.0


@pytest.mark.parametrize("printed", [
    b"root@node:~# echo 'Kernel panic - not syncing: x'", b"grep: kernel BUG at: no such file",
    b"root@node:~# echo \"[    1.000000] Kernel panic - not syncing\"",
    b"node login: x Kernel panic - not syncing", b"a.log: INFO: task a blocked for more than 120 seconds",
    b"[    5.000000] audit: proctitle='[    1.000000] Kernel panic - not syncing'",
])  # fmt: skip
def test_words_that_were_typed_or_quoted_are_no_message(printed: bytes) -> None:
    assert not [line for line in LineReader().feed(printed + b"\r\n", 1.0) if fatal_lines.find(line.text)]


def test_a_message_of_the_past_that_is_quoted_is_no_message() -> None:
    reader = LineReader()
    reader.feed(b"[   60.000000] systemd[1]: up\n", 60.0)
    quoted = reader.feed(b"a log of [    1.000000] Kernel panic - not syncing: gone\n", 61.0)
    assert [line.text for line in quoted if fatal_lines.find(line.text)] == [] and len(quoted) == 1
    late = reader.feed(b"a line and [   59.900000] Kernel panic - not syncing: gone\n", 62.0)
    assert [line.text for line in late if fatal_lines.find(line.text)] == [
        "[   59.900000] Kernel panic - not syncing: gone"]  # fmt: skip


def test_a_redrawn_status_line_is_a_line_each_time() -> None:
    reader = LineReader()
    lines = [line for at in range(3) for line in reader.feed(b"\r[ *** ] job (%ds)" % at, at)] + reader.flush()
    assert [(line.at, line.text) for line in lines] == [(at, f"[ *** ] job ({at}s)") for at in range(3)]
    assert [line.text for line in LineReader().feed(b"\n\r\n\r\r\nend\r\n", 0.0)] == ["", "", "", "end"]


@pytest.mark.parametrize(("line", "within"), [
    ("watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [a:1]", 26.0), ("watchdog: BUG: soft lockup", 20.0),
    ("INFO: task a:1 blocked for more than 120 seconds.", 120.0),
    ("INFO: task a:1 blocked for more than 99999999999 seconds.", 240.0),
    ("INFO: task a:1 blocked for more than 0 seconds.", 20.0),
])  # fmt: skip
def test_the_host_is_measured_for_the_time_that_a_line_names_within_bounds(line: str, within: float) -> None:
    kind = fatal_lines.find(line)
    assert kind is not None
    suspicion = kind.suspicion(line)
    assert suspicion is not None and suspicion.within == within
    assert suspicion.withheld == pytest.approx(within / 3)


def test_no_host_is_suspected_of_a_panic() -> None:
    kind = fatal_lines.find("Kernel panic - not syncing: VFS")
    assert kind is not None and kind.suspicion("Kernel panic - not syncing: VFS") is None


@pytest.mark.parametrize("before", [b"\x1b[K", b"\r", b"\r\r"])
def test_a_boot_loader_that_waits_at_its_prompt_ends_every_wait(console: Console, before: bytes) -> None:
    console.guest.sendall(b"GNU GRUB\r\n" + before + b"grub> ")
    started = time.monotonic()
    with pytest.raises(GuestCrashed, match="boot loader stopped: grub>"):
        console.transcript.wait_for("login:", Deadline.after(60))
    assert time.monotonic() - started < 10.0


def test_escape_sequences_do_not_reach_the_file(console: Console) -> None:
    console.guest.sendall(b"\x1b[2J\x1b]0;own\x07text\n")
    console.transcript.wait_for("text", Deadline.after(10))
    console.guest.close()
    console.transcript.close()
    assert "\x1b" not in console.file.read_text()


def test_a_file_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript_module, "_LARGEST_FILE", 2 << 20)
    guest, host = socket.socketpair()
    liveness = Liveness()
    made = Transcript(host, liveness=liveness, file=tmp_path / "transcript.txt")
    made.start(time.monotonic())
    for _ in range(64):
        guest.sendall(b"x" * (1 << 16) + b"\n")
    guest.close()
    made.close()
    liveness.end(lambda: GuestCrashed("over"))
    liveness.close()
    text = (tmp_path / "transcript.txt").read_text()
    assert len(text) < 2.1 * (1 << 20) and text.endswith("... cut at 2 MiB ...\n")
