"""A record of the hardware of a real instance: made by a script there, and read here as the answers of its shell.

The script and the reader know each other by the questions of `VisibleHardware`: each command is in the record under the
digest of its text, so that an answer is never taken for that of another command.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence

from lifsea_testbed.errors import CallerError, CommandFailed, Explained, NotJudged, Reason
from lifsea_testbed.guest.hardware import VisibleHardware
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import QUESTION, CommandResult

#: The first line of a record, the marks of a question and of a line of its answer, and the line that ends an answer.
_HEAD = "lifsea-testbed instance record 1"
_QUESTION, _ANSWER, _STATUS = "? ", "| ", "status "
#: A record with more than this is no record (bytes): /proc/cpuinfo of 128 processors has 0.2 MB.
LARGEST = 4 << 20
#: The questions that a record answers.
QUESTIONS: tuple[Callable[[VisibleHardware], object], ...] = (
    VisibleHardware.processor, VisibleHardware.memory, VisibleHardware.memory_nodes, VisibleHardware.dmi,
    VisibleHardware.pci_devices, VisibleHardware.virtio_devices, VisibleHardware.virtio_features,
    VisibleHardware.network_cards, VisibleHardware.virtio_ports, VisibleHardware.console,
    VisibleHardware.clock_offset, VisibleHardware.clock_source, VisibleHardware.tpm,
)  # fmt: skip
_SCRIPT = f"""\
#!/bin/sh
# Prints what an instance shows of its hardware, for `lifsea-testbed instance compare`, and writes nothing. Run it as
# root: others are shown no addresses of memory. The output has serial numbers, UUID and MAC address of the instance.
echo '{_HEAD}'
ask() {{
	echo "{_QUESTION}$1"
	answer=$(sh -c "$(cat)" 2>/dev/null </dev/null; echo "{_STATUS}$?")
	printf '%s\\n' "$answer" | sed 's/^/{_ANSWER}/'
}}
"""


class RecordedShell:
    """A shell that has the answers of a record, and no others."""

    def __init__(self, answers: Mapping[str, CommandResult]) -> None:
        self._answers = answers

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Returns the recorded answer to that command.

        Raises:
            CommandFailed: its status was not 0, and `check` is set.
            NotJudged: the record does not have it.
        """
        script = _text(command)
        answer = self._answers.get(_digest(script))
        if answer is None:
            raise NotJudged("the record does not have this answer: it is of another version's script", Reason.OPTION)
        if check and not answer.ok:
            raise CommandFailed(f"status {answer.exit_status} on the instance", evidence=script)
        return answer


class _Questioned:
    """A shell that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.scripts: list[str] = []

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        self.scripts.append(_text(command))
        return _result(self.scripts[-1], 0, "")


def script() -> str:
    """Returns the script that makes a record, for any POSIX shell."""
    questioned = _Questioned()
    for question in QUESTIONS:
        with contextlib.suppress(Explained, NotJudged):
            question(VisibleHardware(questioned))
    asked = [f"ask {_digest(text)} <<'END-OF-QUESTION'\n{text}\nEND-OF-QUESTION\n" for text in questioned.scripts]
    return _SCRIPT + "".join(asked)


def parse(text: str) -> RecordedShell:
    """Reads a record; what stands around it, as a terminal's prompt, is passed over.

    Raises:
        CallerError: this is none.
    """
    lines = split_lines(text)
    if _HEAD not in lines:
        raise CallerError("this is no record of an instance", hint="lifsea-testbed instance script prints its script")
    answers, digest, output = dict[str, CommandResult](), "", list[str]()
    for line in lines[lines.index(_HEAD):]:
        if line.startswith(_QUESTION):
            digest, output = line.removeprefix(_QUESTION).strip(), []
        elif line.startswith(f"{_ANSWER}{_STATUS}") and digest:
            status = line.removeprefix(f"{_ANSWER}{_STATUS}").strip()
            answers[digest] = _result(digest, int(status) if status.isdecimal() else 1, "\n".join(output) + "\n")
        elif line.startswith(_ANSWER):
            output.append(line.removeprefix(_ANSWER))
    return RecordedShell(answers)


def _result(script: str, status: int, output: str) -> CommandResult:
    return CommandResult(script=script, exit_status=status, output=output.encode(), errors=b"", duration=0.0)


def _text(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _digest(script: str) -> str:
    return hashlib.sha256(script.strip().encode()).hexdigest()[:16]
