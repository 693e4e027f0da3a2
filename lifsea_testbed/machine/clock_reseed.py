"""Renewal: what a restored guest has to be told, so that it is not the one that others were restored from as well.

It goes on from a moment in the past, with the random numbers of that moment. One program, which needs nothing of the
image but a place to run in, steps the clock by the time that was lost, mixes 64 fresh bytes into the kernel's entropy,
credits them, and has every processor's generator seeded anew (clock_adjtime(2): ADJ_SETOFFSET; random(4):
RNDADDENTROPY, RNDRESEEDCRNG). A step, unlike a clock that runs fast, leaves timers of uptime alone.

A guest that goes on has to start everything anew, the emulator even to translate it. So on a channel that carries every
byte the program is started before the guest is saved, and waits there: to go on then costs no process.
"""

from __future__ import annotations

import os
import struct

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.channel import PortChannel, new_nonce
from lifsea_testbed.errors import ChannelError
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import Shell

#: The program lies in a file below /run that nobody but root can get at: there the input of a script is, too. It is
#: written over by the next input and keeps its mode: a guest that was told before is spared a process.
_SCRIPT = "[ -x /proc/self/fd/0 ] || chmod 700 /proc/self/fd/0; exec /proc/self/fd/0"
_PROGRAM = "/run/lifsea-testbed/renewal"
_PUT = f"umask 077; cat >{_PROGRAM}; chmod 700 {_PROGRAM}"
_SEED = 64
_MICROSECONDS = 1_000_000
_ADJ_SETOFFSET, _STA_NANO = 0x100, 0x2000
#: struct timex (clock_adjtime(2)): modes, status, seconds, and nanoseconds or microseconds.
_TIMEX, _TIMEX_SIZE = struct.Struct("<I36xI28xqq"), 208
_STEPS = {1: "step its clock", 2: "take entropy", 3: "seed its generator anew", 4: "say what time it is",
          5: "read what time it is"}  # fmt: skip
#: The header of the answer, as long as the program has room for one.
_HEADER = 40
#: What the program is to do: sizes of greeting and input, beginning and size of the answer; greeting, header.
_ORDERS = struct.Struct(f"<QQQQ{_HEADER}s{_HEADER}s")
#: renew.S, assembled, up to its orders; a test assembles it again and compares.
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


def renew(shell: Shell, *, step: int) -> int:
    """Steps the guest's clock by so many microseconds, gives it random numbers of its own, and returns its clock.

    That is in microseconds since the epoch, read after the step.

    Raises:
        ChannelError: the guest runs no program from /run, or its kernel refused.
    """
    result = shell.run(_SCRIPT, input=program(step=step, seed=os.urandom(_SEED)), check=False)
    return _clock(result.exit_status, result.output, result.stderr)


def put(shell: Shell) -> str:
    """Puts the program that is to wait into the guest, and returns the nonce by which it will answer."""
    nonce = new_nonce()
    shell.run(_PUT, input=waiting_program(nonce))
    return nonce


def wait(channel: PortChannel, nonce: str, deadline: Deadline) -> None:
    """Has the program that was put into the guest wait; until it is woken, the channel takes no command.

    Raises:
        ChannelError: the guest runs no program from /run, or its kernel refused.
        WaitTimedOut: it did not start.
    """
    _refuse(channel.lend(_PROGRAM, nonce, deadline).status, "")


def wake(channel: PortChannel, nonce: str, *, step: int, deadline: Deadline) -> int:
    """Does what `renew` does, by the program that waits.

    Raises:
        ChannelError: its kernel refused.
        WaitTimedOut: it did not answer.
    """
    header, output = channel.give(told(step=step, seed=os.urandom(_SEED)), nonce, deadline)
    return _clock(header.status, output, "")


def program(*, step: int, seed: bytes) -> bytes:
    """Returns the program that steps the clock by so many microseconds and takes that seed (64 bytes)."""
    return _CODE + _ORDERS.pack(0, 0, _HEADER, _TIMEX_SIZE, b"", b"") + told(step=step, seed=seed)


def waiting_program(nonce: str) -> bytes:
    """Returns the program that says that it is ready, reads what it is told, and answers, each in a frame."""
    ready, header = port_frames.result(nonce, 0), port_frames.result(nonce, _TIMEX_SIZE)
    given = told(step=0, seed=bytes(_SEED))
    return _CODE + _ORDERS.pack(len(ready), len(given), _HEADER - len(header), len(header) + _TIMEX_SIZE, ready,
                                header.rjust(_HEADER, b"\0")) + given  # fmt: skip


def told(*, step: int, seed: bytes) -> bytes:
    """Returns what the program is told: a struct timex and a struct rand_pool_info."""
    timex = _TIMEX.pack(_ADJ_SETOFFSET, 0, *divmod(step, _MICROSECONDS)).ljust(_TIMEX_SIZE, b"\0")
    return timex + struct.pack("<II", 8 * _SEED, _SEED) + seed


def _clock(status: int, output: bytes, said: str) -> int:
    _refuse(status if status or len(output) == _TIMEX_SIZE else 4, said)
    _, state, seconds, fraction = _TIMEX.unpack_from(output)
    return int(seconds * _MICROSECONDS + (fraction // 1000 if state & _STA_NANO else fraction))


def _refuse(status: int, said: str) -> None:
    if status:
        refused = _STEPS.get(status, f"run a program from /run (status {status})")
        raise ChannelError(f"the guest did not {refused}", evidence=said)
