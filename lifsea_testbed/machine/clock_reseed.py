"""Steps the clock of a restored guest and reseeds its random numbers, so that it differs from others of its snapshot.

A restored guest resumes at a moment in the past, with the random numbers of that moment. One program, which needs
nothing of the image but a directory to run in, steps the clock by the time that has passed, adds 64 fresh bytes to the
kernel's entropy, credits them, and reseeds the generator of every processor (clock_adjtime(2): ADJ_SETOFFSET;
random(4): RNDADDENTROPY, RNDRESEEDCRNG). A step, unlike a clock that runs fast, does not touch timers of uptime.

Starting a process is slow in a guest that was just restored: under emulation all of its code is translated again. So on
a channel that carries every byte the program is started before the guest is saved, and waits for its parameters: after
the restore no process has to be started.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.channel import PortChannel, new_nonce
from lifsea_testbed.errors import ChannelError
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import Shell

#: Where a program may run in the guest, tried in this order: distributions mount some of these without exec.
_PLACES = ("/run/lifsea-testbed", "/dev/shm", "/etc/lifsea-testbed", "/var/tmp", "/tmp", "/root")
_NAME = "lifsea-testbed-clock"
#: Exit statuses of a shell that cannot run a program (POSIX, 2.8.2), and of the program without its parameters.
_NOT_RUN, _READ_FAILED = "126|127", 5
#: Runs the script's input as a program: the channel stores it in a file below /run that root alone can access. The next
#: input replaces the content and keeps the mode, which spares the second call a chmod process.
_SCRIPT = """[ -x /proc/self/fd/0 ] || chmod 700 /proc/self/fd/0
/proc/self/fd/0
status=$?
for place in {places}; do
	case $status in {not_run}) [ -d "$place" ] || continue ;; *) break ;; esac
	(umask 077 && cat /proc/self/fd/0 >"$place/{name}") && chmod 700 "$place/{name}" && "$place/{name}"
	status=$?
	rm -f "$place/{name}"
done
exit $status
"""
#: Stores the input where it runs, and prints its path; without its parameters it ends.
_INSTALL = """for place in {places}; do
	[ -d "$place" ] && (umask 077 && cat /proc/self/fd/0 >"$place/{name}") || continue
	chmod 700 "$place/{name}"
	"$place/{name}" </dev/null >/dev/null
	if [ $? = {read_failed} ]; then
		echo "$place/{name}"
		exit
	fi
	rm -f "$place/{name}"
done
exit 126
"""
_SEED = 64
_MICROSECONDS = 1_000_000
_ADJ_SETOFFSET, _STA_NANO = 0x100, 0x2000
#: struct timex (clock_adjtime(2)): modes, status, seconds, and nanoseconds or microseconds.
_TIMEX, _TIMEX_SIZE = struct.Struct("<I36xI28xqq"), 208
_WRITE_FAILED = 4
#: The operations of the program, by the exit status when one fails.
_OPERATIONS = {1: "step its clock", 2: "take entropy", 3: "reseed its random number generator",
               _WRITE_FAILED: "return its clock", _READ_FAILED: "read the step and the seed"}  # fmt: skip
#: The room for the header of the answer in the program (bytes).
_HEADER = 40
#: The program's configuration: sizes of greeting and input, start and size of the answer; the greeting, the header.
_CONFIGURATION = struct.Struct(f"<QQQQ{_HEADER}s{_HEADER}s")
#: clock_reseed.S, assembled, up to its configuration; a test assembles it again and compares.
_CODE = bytes.fromhex(
    "7f454c4602010100000000000000000002003e0001000000780040000000000040000000000000000000000000000000"
    "000000004000380001000000000000000100000005000000000000000000000000004000000000000000400000000000"
    "3803000000000000380300000000000000100000000000004881ec400100004889e7bef8014000b940010000f3a441bc"
    "02000000b802000000bfa0014000be010000000f0585c00f88e90000004189c541bc04000000b801000000bf01000000"
    "bed00140008b1425b00140000f053b0425b00140000f85bb00000041bc050000004c8d742428448b3c25b80140004585"
    "ff7422b800000000bf000000004c89f64489fa0f0585c00f8e890000004901c64129c7ebd941bc01000000488d7c2428"
    "b89f0000000f0585c0786b41bc02000000b8100000004489efbe03520840488d9424f80000000f0585c0784a41bc0300"
    "0000b8100000004489efbe0752000031d20f0585c0782f41bc04000000b801000000bf010000008b3425c00140004801"
    "e68b1425c80140000f053b0425c801400075034531e44489e7b83c0000000f052f6465762f7572616e646f6d000f1f00"
)


def step_and_reseed(shell: Shell, *, step: int) -> int:
    """Steps the guest's clock by so many microseconds, reseeds its random numbers, and returns its clock.

    The clock is in microseconds since the epoch, read after the step.

    Raises:
        ChannelError: the guest runs no program from any of the places, or its kernel refused.
    """
    result = shell.run(_filled(_SCRIPT), input=program(step=step, seed=os.urandom(_SEED)), check=False)
    return _parse_clock(result.exit_status, result.output, result.stderr)


@dataclass(frozen=True, kw_only=True)
class WaitingProgram:
    """The program that waits for its parameters: its path in the guest, and the nonce that marks its answers."""

    path: str
    nonce: str


def install_waiting_program(shell: Shell) -> WaitingProgram:
    """Writes the program that waits for its parameters into the guest, where it may run.

    Raises:
        ChannelError: the guest runs no program from any of the places.
    """
    nonce = new_nonce()
    result = shell.run(_filled(_INSTALL), input=waiting_program(nonce), check=False)
    _raise_for_status(result.exit_status, result.stderr)
    return WaitingProgram(path=result.stdout.strip(), nonce=nonce)


def start_waiting_program(channel: PortChannel, program: WaitingProgram, deadline: Deadline) -> None:
    """Starts the installed program; until it has its parameters, the channel takes no command.

    Raises:
        ChannelError: its kernel refused.
        WaitTimedOut: it did not start.
    """
    _raise_for_status(channel.lend(program.path, program.nonce, deadline).status, "")


def step_and_reseed_waiting(channel: PortChannel, nonce: str, *, step: int, deadline: Deadline) -> int:
    """Does what `step_and_reseed` does, by the program that waits.

    Raises:
        ChannelError: its kernel refused.
        WaitTimedOut: it did not answer.
    """
    header, output = channel.give(parameters(step=step, seed=os.urandom(_SEED)), nonce, deadline)
    return _parse_clock(header.status, output, "")


def program(*, step: int, seed: bytes) -> bytes:
    """Returns the program that steps the clock by so many microseconds and adds that seed (64 bytes)."""
    return _CODE + _CONFIGURATION.pack(0, 0, _HEADER, _TIMEX_SIZE, b"", b"") + parameters(step=step, seed=seed)


def waiting_program(nonce: str) -> bytes:
    """Returns the program that writes a greeting, reads its parameters and writes its answer, each in a frame."""
    greeting, header = port_frames.result(nonce, 0), port_frames.result(nonce, _TIMEX_SIZE)
    defaults = parameters(step=0, seed=bytes(_SEED))
    return _CODE + _CONFIGURATION.pack(len(greeting), len(defaults), _HEADER - len(header), len(header) + _TIMEX_SIZE,
                                       greeting, header.rjust(_HEADER, b"\0")) + defaults  # fmt: skip


def parameters(*, step: int, seed: bytes) -> bytes:
    """Returns the parameters of the program: a struct timex and a struct rand_pool_info."""
    timex = _TIMEX.pack(_ADJ_SETOFFSET, 0, *divmod(step, _MICROSECONDS)).ljust(_TIMEX_SIZE, b"\0")
    return timex + struct.pack("<II", 8 * _SEED, _SEED) + seed


def _filled(script: str) -> str:
    return script.format(places=" ".join(_PLACES), name=_NAME, not_run=_NOT_RUN, read_failed=_READ_FAILED)


def _parse_clock(status: int, output: bytes, stderr: str) -> int:
    _raise_for_status(status if status or len(output) == _TIMEX_SIZE else _WRITE_FAILED, stderr)
    _, state, seconds, fraction = _TIMEX.unpack_from(output)
    return int(seconds * _MICROSECONDS + (fraction // 1000 if state & _STA_NANO else fraction))


def _raise_for_status(status: int, stderr: str) -> None:
    if status:
        failed = _OPERATIONS.get(status, f"run a program from {', '.join(_PLACES)} (status {status})")
        raise ChannelError(f"the guest did not {failed}", evidence=stderr)
