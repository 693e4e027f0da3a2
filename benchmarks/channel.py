"""The command channel compared with a raw port, labgrid's shell and a bare QEMU: `python -m benchmarks.channel`.

All alternate on one guest, because the speed of a host changes over time. About ten minutes under emulation. Needs
labgrid: `pip install -e .[benchmarks]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from labgrid import Target
from labgrid.driver import SerialDriver, ShellDriver
from labgrid.resource import RawSerialPort

from lifsea_testbed.console import port_frames
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu import command_line
from lifsea_testbed.support.deadline import Deadline
from tests.support import real

ROUNDS, COMMANDS, BOOTS = 3, 30, 5
#: The pause between two commands of a test (seconds); commands without a pause are measured as well.
PAUSE = 0.06
OUTPUT, LABGRID_OUTPUT = 10_000_000, 200_000
_LONG = 600.0
_AUTOLOGIN = r"""mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %%I dumb\n' \
    >/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf
systemctl daemon-reload; systemctl restart serial-getty@ttyS0.service"""
#: One shell, until it reads `exit`.
_ONE = "sh <&3 >&3 2>/dev/null"
#: A shell for each line, started ahead in a session of its own: the minimum that separates commands, without framing,
#: stored output, or a way to kill one. The first and the last line, which exits, are not timed.
_ONE_EACH = f"""mkfifo /run/turn
exec 4<>/run/turn
for _ in $(seq {COMMANDS + 2}); do
    setsid sh -c 'read -r _ <&4; read -r line <&3; echo >&4; eval "$line" >&3' &
done
sleep 2
echo >&4
wait
rm /run/turn"""
#: Runs only these shells on the channel's port.
_BARE = """for name in /sys/class/virtio-ports/*/name; do
    if [ "$(cat $name)" = org.lifsea.testbed.0 ]; then port=${name%/name}; fi
done
cat >/run/bare <<'END'
sleep 4
systemctl stop lifsea-testbed-shell
exec 3<>"/dev/$1"
{shells}
systemctl start lifsea-testbed-shell
END
systemd-run --no-block sh /run/bare "${port##*/}"
"""


def timed(act: Callable[[], object], *, pause: float = PAUSE, count: int = COMMANDS) -> list[float]:
    """How long it takes each time, in milliseconds."""
    taken = []
    for _ in range(count):
        time.sleep(pause)
        started = time.monotonic()
        act()
        taken.append((time.monotonic() - started) * 1000)
    return taken


@contextlib.contextmanager
def labgrid_shell(machine: Machine) -> Iterator[ShellDriver]:
    """labgrid's driver on ttyS0 of the same guest, where root is logged in automatically."""
    machine.run(_AUTOLOGIN, within=60.0)
    ours, theirs = os.openpty()
    tty.setraw(theirs)

    def show(data: bytes) -> None:
        os.write(ours, data)

    def type_on() -> None:
        with contextlib.suppress(OSError):
            while keys := os.read(ours, 4096):
                machine.boot.transcript.send(keys)

    machine.boot.transcript.mirror_to(show)
    threading.Thread(target=type_on, daemon=True).start()
    target = Target("benchmark")
    RawSerialPort(target, name=None, port=os.ttyname(theirs), speed=115200)
    SerialDriver(target, name=None)
    shell = ShellDriver(target, name=None, prompt=r"root@\S+:\S*# ", login_prompt="login: ", username="root")
    target.activate(shell)
    yield shell
    machine.boot.transcript.mirror_to(lambda data: None)


def raw_echo(machine: Machine, shells: str) -> list[float]:
    """Shells alone on the port of the channel: sends `echo` and reads its output, without framing."""
    machine.run(_BARE.replace("{shells}", shells))
    stream = machine.boot._port._stream
    time.sleep(9.0)

    def echo() -> None:
        stream.send(b"echo x\n", Deadline.after(_LONG))
        received = b""
        while not received.endswith(b"x\n"):
            received += stream.receive(Deadline.after(_LONG))

    echo()
    taken = timed(echo)
    stream.send(b"exit\n", Deadline.after(_LONG))
    machine.boot.channel.greet(Deadline.after(_LONG))
    return taken


def commands(machine: Machine, labgrid: ShellDriver) -> tuple[float, float]:
    """Prints the time of a `true` on each, and returns the ratios to raw echo and of labgrid."""
    raw, each, ours, hurried, theirs = list[float](), list[float](), list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        raw += raw_echo(machine, _ONE)
        each += raw_echo(machine, _ONE_EACH)
        ours += timed(lambda: machine.boot.channel.run("true", deadline=Deadline.after(_LONG)))
        hurried += timed(lambda: machine.boot.channel.run("true", deadline=Deadline.after(_LONG)), pause=0.0)
        theirs += timed(lambda: labgrid.run("true"), count=5)
    for name, taken in (("raw echo", raw), ("raw echo, a shell for each", each), ("channel", ours),
                        ("channel, no pause", hurried), ("labgrid", theirs)):  # fmt: skip
        print(f"true, {name}: median {statistics.median(taken):.2f} ms, least {min(taken):.2f} ms", flush=True)
    return statistics.median(ours) / statistics.median(raw), statistics.median(theirs) / statistics.median(ours)


def output(machine: Machine, labgrid: ShellDriver) -> float:
    """Prints the throughput of output, and returns the ratio to labgrid's."""
    started = time.monotonic()
    result = machine.run(f"head -c {OUTPUT} /dev/urandom", within=_LONG)
    ours = len(result.output) / (time.monotonic() - started)
    started = time.monotonic()
    labgrid.run(f"head -c {LABGRID_OUTPUT * 3 // 4} /dev/urandom | base64", timeout=_LONG)
    theirs = LABGRID_OUTPUT / (time.monotonic() - started)
    print(f"output: channel {ours / 1e6:.2f} MB/s of any bytes, labgrid {theirs / 1e6:.4f} MB/s of text", flush=True)
    return ours / theirs


def bare_boot(bench: MachineFactory) -> float:
    """Seconds from the first instruction to the first answer of the shell, with a minimal loop that reads."""
    spec = MachineSpec(name="bare", state=InitialState.OFF)
    with bench.create(spec) as machine, contextlib.ExitStack() as stack:
        pairs = {name: socket.socketpair() for name in ("monitor", "console", "assistant", "channel")}
        files = [stack.enter_context(path.open(mode)) for path, mode in
                 ((bench.image.path, "rb"), (machine._overlay, "r+b"))]  # fmt: skip
        inherited = [*(theirs.fileno() for _, theirs in pairs.values()), *(file.fileno() for file in files)]
        monitor, console, assistant, channel, image, overlay = inherited
        wires = command_line.Descriptors(monitor=monitor, console=console, assistant=assistant, channel=channel,
                                         image=image, overlay=overlay)  # fmt: skip
        command, directory = command_line.command(machine._hardware, wires), machine.network.directory
        confined = machine._confinement.wrap(command, directory=directory)
        qemu = subprocess.Popen(confined, cwd=directory, pass_fds=inherited)
        try:
            return _until_hello({name: ours for name, (ours, _) in pairs.items()})
        finally:
            qemu.kill()
            qemu.wait()


def _until_hello(wires: dict[str, socket.socket]) -> float:
    wires["monitor"].recv(65536)
    for command in ("qmp_capabilities", "cont"):
        wires["monitor"].sendall(json.dumps({"execute": command}).encode())
    started, received = time.monotonic(), b""
    wires["channel"].sendall(port_frames.hello("0" * 16))
    while b" hello " not in received:
        for ready in select.select(list(wires.values()), [], [])[0]:
            data = ready.recv(1 << 18)
            received += data if ready is wires["channel"] else b""
    return time.monotonic() - started


def boots(bench: MachineFactory) -> float:
    """Prints the durations of alternating boots, and returns the median of the ratios."""
    ratios = []
    for number in range(BOOTS):
        bare = bare_boot(bench)
        with bench.create(MachineSpec(name=f"boot-{number}")) as machine:
            ratios.append(machine.shell_after / bare)
            print(f"boot to first command: {machine.shell_after:.2f} s, bare QEMU {bare:.2f} s", flush=True)
    return statistics.median(ratios)


def main() -> None:
    """Measures and prints; the last line has all results."""
    with tempfile.TemporaryDirectory() as reports, real.bench(Path(reports)) as bench:
        with bench.create(MachineSpec(name="commands")) as machine:
            machine.wait_until_ready()
            machine.wait_until(machine.guest.kubelet.health, "the kubelet settles", within=60.0)
            with labgrid_shell(machine) as labgrid:
                raw, times = commands(machine, labgrid)
                faster = output(machine, labgrid)
        boot = boots(bench)
    print(f"channel: command {raw:.2f}× raw, {times:.1f}× labgrid; output {faster:.0f}× labgrid; boot {boot:.3f}× bare")


if __name__ == "__main__":
    main()
