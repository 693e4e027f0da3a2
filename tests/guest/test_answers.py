"""Whatever a guest prints, each question of each subject returns a value or finds the guest at fault."""

from __future__ import annotations

import inspect
import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import AnswerUnreadable, Blame, CommandFailed, Explained, NotJudged
from lifsea_testbed.guest import changes
from lifsea_testbed.guest.answers import number, readable
from lifsea_testbed.guest.cri import Container, ContainerRuntime, ContainerState
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.hardware import VisibleHardware
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.packages import Packages
from lifsea_testbed.guest.services import Services
from lifsea_testbed.guest.system import Clock, System
from lifsea_testbed.guest.units import Units
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.protocols import CommandResult
from tests.support.fakes import FakeShell


class OddShell:
    """Answers every script with the same status, output and errors."""

    def __init__(self, status: int, output: bytes, errors: bytes) -> None:
        self._answer = status, output, errors

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        status, output, errors = self._answer
        if check and status:
            raise CommandFailed(f"status {status} from: {script}")
        return CommandResult(script=script, exit_status=status, output=output, errors=errors, duration=0.0)


OUTPUTS = {
    "nothing": b"", "blank": b" \n\t\n", "a word": b"nonsense\n", "words": b"one odd = of: many, words | x\n" * 3,
    "rubbish": bytes(range(256)) * 8, "random": random.Random(23).randbytes(4096), "NUL": b"\0\0\n\0",
    "huge": b"9" * 5000 + b"\n", "large": b"99999999999999999999999999\n" * 5, "infinite": b"inf nan -1e999\n",
    "negative": b"-1 -1 -1 -1 -1\n", "table": b"tcp 0: zz:zz zz:zz 0A a b c d e f g\n",
    "digits": "²³ ٣ ²%\n".encode(), "properties": b"Id=x\nMainPID=no\nNRestarts=\xff\nFinishTimestampMonotonic=soon\n",
    "frame": b"\0\0\0\0\x05\x0a\xff\xff\xff\xff", "message": b"\0\0\0\0\x02\x30\x63", "brackets": b"[" * 100_000,
    "pairs": b"Package\n\nVersion: 1\n\nStatus: install ok installed\n",
    "zeros": b"0 0 0 0 0\n", "memory": b"MemTotal: many kB\n", "message of a kernel": b"<" + b"9" * 5000 + b">x\n",
    "a root": b"21 1 253:4 / / rw - ext4 /dev/vda4 rw\n", "a processor": b"processor : 0\nmodel name : x\nmodel : y\n",
}  # fmt: skip
#: With the status of a call to the container runtime among the errors, its output is read.
ERRORS = [b"", bytes(range(256)), b"grpc-status: 0\r\n", b"grpc-status: " + b"9" * 5000]
PROFILE = profiles.load("reference")
SAMPLES: dict[str, Any] = {
    "path": "/etc/x", "text": "x", "directory": "/usr", "directories": ["/usr", "/etc"],
    "paths": ["/usr"], "lines": ["x"], "content": b"content",
    "patterns": ["x.*"], "marks": ["Py_Main"], "unit": "x.service", "pattern": ".*", "mac": "00:16:3e:00:00:01",
    "names": ["vm.swappiness", "kernel.x"], "prefixes": ["x"], "name": "eth0", "address": "10.0.0.1/24", "url": "http://127.0.0.1/",
    "allowed": ["tcp .*"], "commit": "a" * 64, "key": "version", "device": "vdb", "os": "lifsea", "pod": "pod",
    "mode": "enforcing", "container": Container(id="x", pod="y", sandbox="z", attempt=0, state=ContainerState.RUNNING),
}  # fmt: skip


def questions(shell: OddShell, place: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each public method and property of each subject of a guest, with sample arguments; and the list of changes."""
    guest = Guest(shell, lambda: PROFILE)
    for subject in (name for name, value in vars(Guest).items() if not name.startswith("_") and name != "subject"
                    and not inspect.isfunction(value)):  # fmt: skip
        kind = type(getattr(guest, subject))
        for name, member in vars(kind).items():
            if not name.startswith("_"):
                yield f"{subject}.{name}", question(guest, subject, name, member, place)
    yield "changes", lambda: changes.observe(shell, ["/etc"])


def question(guest: Guest, subject: str, name: str, member: object, place: Path) -> Callable[[], object]:
    if not inspect.isfunction(member):
        return lambda: getattr(getattr(guest, subject), name)
    parameters = [each.name for each in inspect.signature(member).parameters.values() if each.default is each.empty][1:]
    samples = SAMPLES | {"into": place / "into"} | ({"directory": place} if name == "put_tree" else {})
    return lambda: getattr(getattr(guest, subject), name)(*(samples[parameter] for parameter in parameters))


def fault(ask: Callable[[], object]) -> Exception | None:
    """What a question raises that is neither the product's fault nor *not judged*."""
    try:
        ask()
    except NotJudged:
        return None
    except Explained as error:
        return None if error.blame is Blame.PRODUCT else error
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("output", OUTPUTS)
def test_no_answer_is_the_harness_s_fault(tmp_path: Path, output: str) -> None:
    shells = [OddShell(status, OUTPUTS[output], errors) for status in (0, 1, 3) for errors in ERRORS]
    asked = ((name, fault(ask)) for shell in shells for name, ask in questions(shell, tmp_path))
    assert [f"{name}: {error!r}" for name, error in asked if error] == []


def test_every_subject_is_asked(tmp_path: Path) -> None:
    names = [name for name, _ in questions(OddShell(0, b"", b""), tmp_path)]
    assert len(names) > 90 and {name.partition(".")[0] for name in names} >= {"clock", "runtime", "hardware", "disks"}


STATUS = {"/proc/self/mountinfo": "21 1 253:4 / / rw - ext4 /dev/vda4 rw\n"}


@pytest.mark.parametrize(("ask", "answers"), [
    (lambda shell: Clock(shell).ahead(), {"date": "tomorrow\n"}),
    (lambda shell: Kernel(shell).uptime(), {"uptime": "\n"}),
    (lambda shell: Kernel(shell).uptime(), {"uptime": "inf 0\n"}),
    (lambda shell: Kernel(shell).memory_used(), {"meminfo": "MemTotal: 1 kB\n"}),
    (lambda shell: Kernel(shell).sysctls(["a.b", "c.d"]), {"/proc/sys": "1\n"}),
    (lambda shell: Kernel(shell).loaded_modules(["x"]), {"modules": " \n"}),
    (lambda shell: Disks(shell).root(), STATUS | {"readlink": "1 2 3\n"}),
    (lambda shell: Disks(shell).root(), STATUS | {"readlink": "9 0 0 9 9\n"}),
    (lambda shell: System(shell, ["/etc/x"]).identity(), {"sha256sum": "aa\n"}),
    (lambda shell: Deployments(shell).all(), {"ostree": "No deployments.\n"}),
    (lambda shell: Deployments(shell).pull_from_disk("vdb"), {"ostree": "done\n"}),
    (lambda shell: Services(shell).state("x.service"), {"systemctl": "ActiveState=active\nSubState=x\nMainPID=many\n"}),
    (lambda shell: Services(shell).state("x.service"), {"systemctl": ""}),
    (lambda shell: Units(shell).restarted(), {"systemctl": "NRestarts=3\n"}),
    (lambda shell: Packages(shell).installed(), {"for file": "Version: 1\n"}),
    (lambda shell: VisibleHardware(shell).processor(), {"cpuinfo": "processor : 0\n"}),
    (lambda shell: VisibleHardware(shell).network_cards(), {"/sys/class/net": "04.0 eth0 x many 1500\n"}),
    (lambda shell: changes.observe(shell, ["/etc"]), {"mark": "/etc/a\n\n/etc/b\n\n"}),
])  # fmt: skip
def test_an_answer_that_cannot_be_read_is_shown_with_its_command(
    ask: Callable[[FakeShell], object], answers: dict[str, str]
) -> None:
    shell = FakeShell(answers)
    with pytest.raises(AnswerUnreadable, match="cannot be read") as caught:
        ask(shell)
    assert shell.scripts[-1].strip() in caught.value.evidence
    assert list(answers.values())[-1].strip() in caught.value.evidence and caught.value.expected


def test_a_message_of_the_runtime_that_is_cut_short_is_the_guest_s_fault() -> None:
    shell = OddShell(0, b"\0\0\0\0\x02\x0a\x7f", b"grpc-status: 0\r\n")
    with pytest.raises(AnswerUnreadable, match="ends within field 1"):
        ContainerRuntime(shell, ClusterSection()).images()
    with pytest.raises(AnswerUnreadable, match="announces 7"):
        ContainerRuntime(OddShell(0, b"\0\0\0\0\x07", b"grpc-status: 0\r\n"), ClusterSection()).images()


def test_the_evidence_is_bounded_and_printable() -> None:
    answer = CommandResult(script="x" * 9000, exit_status=0, output=b"\x1b]0;title\x07\0" * 9000, errors=b"",
                           duration=0.0)  # fmt: skip
    with pytest.raises(AnswerUnreadable) as caught, readable(answer):
        number("nan")
    assert len(str(caught.value)) < 12_000 and "\x1b" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_path_with_a_blank_identifies_a_machine() -> None:
    shell = FakeShell({"sha256sum": "aa  /etc/ssh/my key\n"})
    assert System(shell, ["/etc/ssh/*"]).identity() == {"/etc/ssh/my key": "aa"}


def test_a_setting_may_be_several_numbers_or_nothing() -> None:
    shell = FakeShell({"/proc/sys": "4\t4\t1\t7\n\n-1\n"})
    assert Kernel(shell).sysctls(["kernel.printk", "kernel.modprobe", "a"]) == {
        "kernel.printk": "4\t4\t1\t7", "kernel.modprobe": "", "a": -1}  # fmt: skip


def test_os_release_may_lie_in_usr_alone() -> None:
    shell = FakeShell({"cat /etc/os-release 2>/dev/null || cat /usr/lib/os-release": "ID=lifsea\n"})
    assert System(shell).os_release() == {"ID": "lifsea"}
