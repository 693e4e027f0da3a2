"""Renewal: what a restored guest has to be told, so that it is not the one that others were restored from as well.

It goes on from a moment in the past, with the random numbers of that moment. One program, which needs nothing of the
image but a place to run in, steps the clock by the time that was lost, mixes 64 fresh bytes into the kernel's entropy,
credits them, and has every processor's generator seeded anew (clock_adjtime(2): ADJ_SETOFFSET; random(4):
RNDADDENTROPY, RNDRESEEDCRNG). A step, unlike a clock that runs fast, leaves timers of uptime alone.
"""

from __future__ import annotations

import os
import struct

from lifsea_testbed.errors import ChannelError
from lifsea_testbed.guest.shell import Shell

#: The input of a script lies in a file below /run that nobody but root can get at. It is written over by the next one
#: and keeps its mode: a guest that was told before, as each is before it is saved, is spared a process.
_SCRIPT = "[ -x /proc/self/fd/0 ] || chmod 700 /proc/self/fd/0; exec /proc/self/fd/0"
_SEED = 64
_MICROSECONDS = 1_000_000
_ADJ_SETOFFSET, _STA_NANO = 0x100, 0x2000
#: struct timex (clock_adjtime(2)): modes, status, seconds, and nanoseconds or microseconds.
_TIMEX, _TIMEX_SIZE = struct.Struct("<I36xI28xqq"), 208
_STEPS = {1: "step its clock", 2: "take entropy", 3: "seed its generator anew", 4: "say what time it is"}
#: renew.S, assembled, up to its data; a test assembles it again and compares.
_CODE = bytes.fromhex(
    "7f454c4602010100000000000000000002003e0001000000780040000000000040000000000000000000000000000000"
    "000000004000380001000000000000000100000005000000000000000000000000004000000000000000400000000000"
    "48020000000000004802000000000000001000000000000041bc010000004881ecd00000004889e7be30014000b9d000"
    "0000f3a44889e7b89f0000000f0585c0787541bc02000000b802000000bf21014000be010000000f0585c0785a4189c5"
    "b8100000004489efbe03520840ba000240000f0585c0783f41bc03000000b8100000004489efbe0752000031d20f0585"
    "c0782441bc04000000b801000000bf010000004889e6bad00000000f053dd000000075034531e44489e7b83c0000000f"
    "052f6465762f7572616e646f6d006690"
)


def renew(shell: Shell, *, step: int) -> int:
    """Steps the guest's clock by so many microseconds, gives it random numbers of its own, and returns its clock.

    That is in microseconds since the epoch, read after the step.

    Raises:
        ChannelError: the guest runs no program from /run, or its kernel refused.
    """
    result = shell.run(_SCRIPT, input=program(step=step, seed=os.urandom(_SEED)), check=False)
    if not result.ok or len(result.output) != _TIMEX_SIZE:
        refused = _STEPS.get(result.exit_status, f"run a program from /run (status {result.exit_status})")
        raise ChannelError(f"the guest did not {refused}", evidence=result.stderr)
    _, status, seconds, fraction = _TIMEX.unpack_from(result.output)
    return int(seconds * _MICROSECONDS + (fraction // 1000 if status & _STA_NANO else fraction))


def program(*, step: int, seed: bytes) -> bytes:
    """Returns the program that steps the clock by so many microseconds and takes that seed (64 bytes)."""
    timex = _TIMEX.pack(_ADJ_SETOFFSET, 0, *divmod(step, _MICROSECONDS)).ljust(_TIMEX_SIZE, b"\0")
    return _CODE + timex + struct.pack("<II", 8 * _SEED, _SEED) + seed
