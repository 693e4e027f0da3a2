"""Whatever a guest does or prints, the fault is the product's: the host's needs a measurement of the host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import (
    Blame,
    BootFailed,
    DiskDamaged,
    Explained,
    GuestCrashed,
    HostError,
    MachineStarved,
    TestbedError,
)
from lifsea_testbed.machine import diagnosis
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.qemu.processor_share import ProcessorSample, ThreadTimes
from lifsea_testbed.qemu.qmp import Event
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from tests.console.test_channel import SOON, talk
from tests.machine.test_diagnosis import PRINT, PROFILE
from tests.support.boot_sector import boot_sector
from tests.support.quick import skip_if_busy

#: What a guest executes after it has printed its text, in real mode.
DOES = {
    "resets by the keyboard controller": "b0fe e664 f4",
    "resets by the chipset": "bAf90c b006 ee f4",
    "faults in the handler of a double fault": "0f011e007d cd03",  # lidt [0x7d00], zeros: no handler at all
    "powers off by ACPI": "66 b804 80 0000 66 bae0ff",
    "halts with interrupts disabled": "f4 ebfd",
    "halts with all interrupts masked": "b0ff e621 e6a1 fb f4 ebfd",
    "runs for ever": "ebfe",
    "floods the console": "baf803 b041 ee ebfd",
    "floods the console with newlines": "baf803 b00a ee ebfd",
    "reports a panic by pvpanic": "ba0505 b001 ee f4",
    "writes all over its memory": "31ff 8ec7 fc b9ffff f3ab f4",
}  # fmt: skip
#: What it prints: words of the kernel, of QEMU and of the test bed itself that name a fault of the host.
PRINTS = (
    "[   30.000001] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "qemu-system-x86: virtio: zero sized buffers",
    "rcu: x kthread timer wakeup didn't happen for 2001 jiffies!", "INFO: task a:1 blocked for more than 120 seconds.",
    "[    0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!", "HostError: the host's disk is full",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 0s!", "blame: host", "QEMU was killed by SIGKILL",
    "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0", "rcu: INFO: rcu_sched self-detected stall on CPU",
    "qemu-system-x86_64: No space left on device",
)


def end(place: Path, text: str, does: str, accelerator: str = "tcg") -> Explained:
    """The end of a power-on of a guest that prints a text, then does that, and is never up."""
    size = 19 + len(bytes.fromhex(does))
    code = bytes.fromhex(PRINT.format(text=size) + does)
    (place / "disk.raw").write_bytes(boot_sector(text, code).ljust(1 << 20, b"\0"))
    (place / "kernel.toml").write_text(PROFILE.format(within=0.5))
    context = run_context(image=str(place / "disk.raw"), profile=str(place / "kernel.toml"),
                          instance_type="ecs.g7.large", accelerator=accelerator, reports=place)  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as factory, pytest.raises(Explained) as caught, \
            factory.create(MachineSpec(name="guest")):  # fmt: skip
        pass
    skip_if_busy(caught.value)
    return caught.value


@pytest.mark.parametrize("does", DOES.values(), ids=DOES)
def test_what_a_guest_does_is_its_own_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(diagnosis, "_LOST", 2.0)
    error = end(tmp_path, "[    1.000000] up\n", does)
    assert isinstance(error, BootFailed | GuestCrashed) and error.blame is Blame.PRODUCT, error


@pytest.mark.parametrize("prints", PRINTS)
def test_what_a_guest_prints_is_its_own_fault(tmp_path: Path, prints: str) -> None:
    """Its QEMU is some seconds old: no host can have withheld a third of 20 s from it by then."""
    error = end(tmp_path, f"{prints}\n", "f4 ebfd")
    assert isinstance(error, BootFailed | GuestCrashed) and error.blame is Blame.PRODUCT, error


# What it answers on the command channel

ANSWERS = (
    b"garbage\n", b"channel NONCE result x 0 0\n", b"channel NONCE result 0 99999999999 0\n", b"\x00" * 4096,
    b"channel 1234 result 0 0 0\n", b"channel NONCE hello b\nx\n", b"channel NONCE result 0 268435457 0\n",
    b"channel NONCE result 0 100 0\nnot as many",
)


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_guest_answers_is_its_own_fault(answer: bytes) -> None:
    with talk(answer) as (channel, _), pytest.raises(Explained) as caught:
        channel.run("true", deadline=Deadline.after(1.0))
    assert caught.value.blame is Blame.PRODUCT


def test_a_guest_whose_shell_ends_is_at_fault() -> None:
    with talk() as (channel, _):
        threading.Timer(0.1, channel.port_closed).start()
        with pytest.raises(Explained) as caught:
            channel.run("true", deadline=Deadline.after(SOON))
    assert caught.value.blame is Blame.PRODUCT


# What QEMU reports of it

def on(event: Event, *files: Path) -> Explained:
    """How a machine on those files ends by that event."""
    boot: Any = object.__new__(Boot)
    boot.liveness, boot._image = Liveness(), files[0]
    boot.disks = SimpleNamespace(all=[SimpleNamespace(path=path) for path in files[1:]])
    boot.transcript = SimpleNamespace(tail=lambda: "the last lines")
    Boot._on_disk_error(boot, event)
    try:
        return boot.liveness.reason()  # type: ignore[no-any-return]
    finally:
        boot.liveness.close()


def failed(reason: str, **data: object) -> Event:
    return Event(name="BLOCK_IO_ERROR", data={"operation": "read", "reason": reason, **data}, at=0.0)


def test_data_that_qemu_cannot_read_is_the_hosts_fault_only_where_the_host_cannot_either(tmp_path: Path) -> None:
    image, overlay = tmp_path / "image", tmp_path / "overlay"
    image.write_bytes(bytes(3 << 20))
    overlay.write_bytes(b"x")
    error = on(failed("Input/output error"), image, overlay)
    assert type(error) is DiskDamaged and "Input/output error" in error.happened and "whole" in error.evidence
    overlay.unlink()
    error = on(failed("Input/output error"), image, overlay)
    assert type(error) is HostError and str(overlay) in error.evidence
    assert type(on(failed("No space left on device", nospace=True), image)) is HostError


@pytest.mark.parametrize("state", ["suspended", "internal-error", "guest-panicked", "watchdog", "shutdown"])
def test_a_state_that_a_guest_brings_about_is_its_own_fault(state: str) -> None:
    error = silence(lambda: {"running": False, "status": state})
    assert type(error) is GuestCrashed and state in error.evidence and "KVM says why" in error.evidence


@pytest.mark.parametrize("state", ["paused", "prelaunch", "io-error"])
def test_a_state_that_only_the_host_brings_about_is_the_hosts(state: str) -> None:
    assert type(silence(lambda: {"running": False, "status": state})) is HostError


def silence(status: Callable[[], dict[str, object]], *, state: str = "State:\tS (sleeping)", ran: float = 0.0,
            waited: float = 0.0) -> Explained | None:
    """The diagnosis of a guest whose QEMU answers so, in that state, with threads that ran and waited so long."""
    def sample(at: float, share: float) -> ProcessorSample:
        threads = {1: ThreadTimes(ran=ran * share, waited=waited * share)}
        return ProcessorSample(at=at, threads=threads, others=at)

    process: Any = SimpleNamespace(stderr=lambda: "KVM says why", state=lambda: state,
                                   share=SimpleNamespace(samples=lambda: [sample(0.0, 0.0), sample(2.0, 1.0)]))
    monitor: Any = SimpleNamespace(execute=lambda *_, **__: status())
    transcript: Any = SimpleNamespace(tail=lambda lines=30: "the last lines")
    return diagnosis.silence(monitor, process, transcript, emulated=True, waited=2.0)


@pytest.mark.parametrize(("waited", "blame"), [(0.6, None), (0.8, MachineStarved)])
def test_a_guest_that_was_late_is_at_fault_unless_the_host_was_too_busy(waited: float, blame: object) -> None:
    error = silence(lambda: {"running": True}, ran=1.0, waited=waited)
    assert (error and type(error)) is blame
    assert error is None or "withheld the processor from QEMU for 0.8 s" in error.happened


def no_answer() -> dict[str, object]:
    raise TestbedError("no answer")


@pytest.mark.parametrize(("measured", "blame"), [
    ({"ran": 1.9}, None), ({"ran": 0.0}, HostError), ({"ran": 1.0, "waited": 1.0}, HostError),
    ({"ran": 1.0, "state": "State:\tT (stopped)"}, HostError),
    ({"ran": 1.0, "state": "State:\tD (disk sleep)"}, HostError),
])  # fmt: skip
def test_a_monitor_that_a_guest_keeps_busy_is_not_the_hosts_fault(measured: dict[str, Any], blame: object) -> None:
    error = silence(no_answer, **measured)
    assert (error and type(error)) is blame


def test_a_guest_that_goes_down_is_at_fault_although_its_qemu_ends_before_the_event_is_read() -> None:
    boot: Any = object.__new__(Boot)
    boot.liveness = Liveness()
    boot.transcript = SimpleNamespace(tail=lambda: "the last lines")
    ended: Any = SimpleNamespace(ended_well=True, exit_error=lambda: HostError("QEMU exited with status 0"))
    event = Event(name="SHUTDOWN", data={"guest": True, "reason": "guest-reset"}, at=0.0)
    threading.Timer(0.1, Boot._on_shutdown, [boot, event]).start()
    Boot._on_exit(boot, ended)
    assert type(boot.liveness.reason()) is GuestCrashed
    boot.liveness.close()
