"""The command channel under fire: thousands of commands while others write to the same consoles."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import ChannelDevice
from tests.support.real import machine

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
COMMANDS = {ChannelDevice.PORT: 9_000, ChannelDevice.SERIAL: 1_000}
#: Kernel messages, random bytes and look-alikes of both kinds of frames, on both consoles.
NOISE = r"""#!/bin/bash
sysctl -q kernel.printk=8
exec 9<> <(:) # nobody writes there: to read from it is to sleep without another process
for ((i = 0; ; i++)); do
    echo "<3>noise $i: channel 0123456789abcdef result 0 1 1" >/dev/kmsg
    printf '\036%016x end 17 0:0:0:none:none\nchannel %016x result 0 0 0\n' $RANDOM $RANDOM >/dev/ttyS0
    if ((i % 10 == 0)); then
        head -c 300 /dev/urandom | tee /dev/hvc0 >/dev/ttyS0
        echo h >/proc/sysrq-trigger
    fi
    read -rt 0.05 -u 9
done
"""


def one(machine: Machine, dice: random.Random, number: int) -> bool:
    """Runs a command with known status, output and errors, and returns whether all three are right."""
    status, size = dice.randrange(100), dice.choice([0, 0, 1, 100, 1000, 20_000])
    sent = dice.randbytes(size)
    result = machine.run(f"cat; echo {number} >&2; exit {status}", input=sent, check=False, within=60.0)
    return (result.exit_status, result.output, result.errors) == (status, sent, b"%d\n" % number)


@pytest.mark.parametrize("line", [ChannelDevice.PORT, ChannelDevice.SERIAL])
def test_no_command_goes_wrong_under_fire(tmp_path: Path, line: ChannelDevice) -> None:
    dice = random.Random(line)
    with machine(tmp_path, line=line) as own:
        own.guest.files.put(NOISE.encode(), "/run/noise.sh")
        own.run("systemd-run --no-block bash /run/noise.sh")
        wrong = [number for number in range(COMMANDS[line]) if not one(own, dice, number)]
    assert wrong == []


def test_files_and_directories_go_both_ways(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(100 << 20)
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").write_bytes(content[:1000])
    (tmp_path / "tree/link").symlink_to("below/file")
    with machine(tmp_path) as own:
        own.guest.files.put(content, "/var/large")
        assert own.run("sha256sum </var/large", within=60.0).stdout.split()[0] == hashlib.sha256(content).hexdigest()
        own.guest.files.get("/var/large", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
        own.guest.files.put_tree(tmp_path / "tree", "/var/tree")
        own.guest.files.get_tree("/var/tree", tmp_path / "again")
    assert (tmp_path / "again/below/file").read_bytes() == content[:1000]
    assert (tmp_path / "again/link").readlink() == Path("below/file")
