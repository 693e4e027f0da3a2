"""A recording: the disk of a machine before an upgrade, and the log of all that was written to it from then on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lifsea_testbed.bench import Bench
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import RawFile, Source
from lifsea_testbed.disk.stack import opened
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import CallerError, LaunchError, TestbedError
from lifsea_testbed.guest import ostree
from lifsea_testbed.image import Image
from lifsea_testbed.machine import Machine
from lifsea_testbed.powercut.content import CLUSTER, Contents
from lifsea_testbed.powercut.states import CrashStates, Kind, State
from lifsea_testbed.powercut.writelog import WriteLog
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.scenario import IN_ETC

#: How long the machine is left alone after the tool has announced success (seconds by the guest's clock): the kernel
#: writes back what is older than 30 s (Documentation/admin-guide/sysctl/vm.rst, dirty_expire_centisecs), with an
#: interval of 5 s between two looks.
SETTLE = 40.0
_BASE, _LOG, _FINAL, _FACTS = "base.qcow2", "writes.log", "final.qcow2", "recording.json"
_ENDING = 30.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recording is of: the images by digest, the profile, the identity of the machine, the two commits.

    `started` and `announced` are how many entries the log had when the deployment began and when its tool had
    announced success; `disk_size` is in bytes.
    """

    image: str
    next_image: str
    profile: str
    instance: str
    uuid: str
    disk_serial: str
    mac: str
    old: str
    new: str
    started: int
    announced: int
    disk_size: int
    qemu: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A directory with a recording: the files stay as they are while states are made and judged."""

    directory: Path
    facts: Facts

    @property
    def base(self) -> Path:
        """What the machine wrote above the image before it was recorded."""
        return self.directory / _BASE

    @property
    def log(self) -> Path:
        """The log of its writes and flushes."""
        return self.directory / _LOG


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A recording that is open: its log, what each state's disk holds, and the states themselves."""

    facts: Facts
    log: WriteLog
    contents: Contents
    states: CrashStates


def load(directory: Path, image: Image, next_image: Image | None) -> Recording | None:
    """Returns the recording in that directory, or nothing if there is none.

    Raises:
        CallerError: it is of other images.
    """
    path = directory / _FACTS
    if not path.is_file():
        return None
    facts = Facts(**json.loads(path.read_text("utf-8")))
    if facts.image != image.sha256 or (next_image and facts.next_image != next_image.sha256):
        raise CallerError(f"{directory}: holds a recording of other images", hint="choose another --recording")
    return Recording(directory=directory, facts=facts)


@contextlib.contextmanager
def timeline(recording: Recording, image: Image, *, seed: int = 1) -> Iterator[Timeline]:
    """Opens a recording for as long as the context."""
    facts = recording.facts
    with opened(image, recording.base) as base, RawFile(recording.log) as file:
        log = WriteLog(file, disk_size=facts.disk_size)
        yield Timeline(facts=facts, log=log, contents=Contents(log, base),
                       states=CrashStates(log.entries, start=facts.started, seed=seed))  # fmt: skip


def record(bench: Bench, directory: Path, *, settle: float = SETTLE) -> Recording:
    """Records a deployment of the bench's next image, from a clean boot until the kernel has written all back.

    Raises:
        CallerError: there is no next image.
        TestbedError: the log is unsound, or its replay is not what the disk held in the end.
        GuestFailure: the machine did not come up, or did not deploy.
    """
    if bench.next_image is None:
        raise CallerError("there is nothing to upgrade to", hint="give --next-image")
    directory.mkdir(parents=True, exist_ok=True)
    instance = Instance(type=bench.instance_type)
    base, log, final = directory / _BASE, directory / _LOG, directory / _FINAL
    log.write_bytes(b"")
    with bench.off("powercut-prepare", layers=Layers(overlay=base), instance=instance) as machine:
        before, commit = _prepare(bench, machine, bench.next_image)
    layers = Layers(below=(base,), overlay=final, write_log=log)
    with bench.off("powercut-record", layers=layers, instance=instance) as machine:
        started, announced = _deploy(machine, before.os, commit, log, settle)
    with opened(bench.image, base) as below, RawFile(log) as file, RawFile(final) as last:
        read = WriteLog(file, disk_size=below.size)
        check(read, below, Qcow2(last, below))
    facts = Facts(
        image=bench.image.sha256, next_image=bench.next_image.sha256, profile=bench.profile_name, instance=instance.id,
        uuid=instance.uuid, disk_serial=instance.disk_serial, mac=instance.mac, old=before.commit, new=commit,
        started=read.count_at(started), announced=read.count_at(announced), disk_size=read.disk_size,
        qemu=bench.emulator.version,
    )  # fmt: skip
    (directory / _FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    final.unlink()
    return Recording(directory=directory, facts=facts)


def _prepare(bench: Bench, machine: Machine, next_image: Image) -> tuple[ostree.Deployment, str]:
    """Has all that goes before the deployment done and safely on disk."""
    machine.power_on()
    bench.identify(machine)
    machine.wait_until_ready()
    machine.guest.write(IN_ETC, IN_ETC)
    commit = ostree.pull_from_disk(machine, machine.attach_disk(next_image))
    before = machine.guest.booted_deployment()
    machine.power_off()
    return before, commit


def _deploy(machine: Machine, os: str, commit: str, log: Path, settle: float) -> tuple[int, int]:
    """Deploys; returns how long the log was when that began and when it was announced to be done."""
    machine.power_on()
    machine.wait_until_ready()
    machine.run("sync")
    started = log.stat().st_size
    ostree.deploy(machine, os, commit)
    announced = log.stat().st_size
    machine.boot.lifeline.pause(settle, Deadline.after(settle))
    machine.boot.lifeline.expect_end()
    with contextlib.suppress(LaunchError):
        machine.boot.execute("quit")
    if not machine.boot.wait_until_off(Deadline.after(_ENDING)):
        raise TestbedError("QEMU did not quit, so the end of the log is not known", hint="record again")
    return started, announced


def check(log: WriteLog, base: Source, final: Qcow2) -> None:
    """Makes sure that the whole log, replayed on the base, gives what the disk held in the end, byte for byte.

    Raises:
        TestbedError: it does not.
    """
    count = len(log.entries)
    everything = State(name="everything", kind=Kind.PREFIX, position=count, latest=count)
    replayed = dict(Contents(log, base).clusters(everything))
    written = {place // CLUSTER for offset, length in final.own() for place in range(offset, offset + length, CLUSTER)}
    for cluster in sorted(replayed.keys() | written):
        wanted = replayed.get(cluster)
        if wanted is None:
            wanted = base.read_at(cluster * CLUSTER, CLUSTER)
        if final.read_at(cluster * CLUSTER, CLUSTER) != wanted:
            raise TestbedError(f"the log of writes does not lead to the disk that it is of: byte {cluster * CLUSTER}",
                               expected="a replay of the whole log gives the disk as it was in the end",
                               hint="record again; QEMU before 9.0 may corrupt the log")  # fmt: skip
