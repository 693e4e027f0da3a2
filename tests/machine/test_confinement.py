"""A QEMU taken over by its guest: what its user cannot do at any step of a machine's life, and what it does not see."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lifsea_testbed.disk.image import examine
from lifsea_testbed.errors import Blame, GuestFailure
from lifsea_testbed.machine import postmortem
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu import limits
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.storage import MemoryFile, create_memory_file
from lifsea_testbed.support import user_range
from lifsea_testbed.support.confinement import isolation
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.programs import Ended
from tests.support import ROOT, attacker, quick
from tests.support.attacker import SECRET, Attacker
from tests.support.boot_sector import filling_image, raw_image

UP = "up and running\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs each machine as a user of its own")
isolated = pytest.mark.skipif(not isolation().namespaces, reason=f"no namespaces here: {isolation().why}")
ORDINARY = """
import json, os, sys
from pathlib import Path
from tests.support import quick
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.qemu.accelerator import AcceleratorKind
with quick.factory(Path(sys.argv[1]), quick.measured(AcceleratorKind.TCG)) as factory, \\
        factory.create(MachineSpec(name="ordinary")) as machine:
    own = {name: os.readlink(f"/proc/{machine.boot.process.pid}/ns/{name}") for name in ("net", "mnt", "ipc", "pid")}
    print(json.dumps({name: own[name] != os.readlink(f"/proc/self/ns/{name}") for name in own}))
"""


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[MachineFactory]:
    with quick.factory(raw_image(tmp_path / "disk.raw", UP), quick.measured(AcceleratorKind.TCG)) as factory:
        yield factory


def user_of(machine: Machine) -> int:
    return Path(f"/proc/{machine.boot.process.pid}").stat().st_uid


def attacked(machine: Machine, factory: MachineFactory, place: Path) -> list[str]:
    """What the user of the machine can do to the files of all machines and to the records."""
    return Attacker(uid=user_of(machine), secret=place / "secret").attack(factory._directory.path, factory.records)


@as_root
def test_no_file_of_roots_is_reached_at_any_step_of_a_machines_life(tmp_path: Path, factory: MachineFactory) -> None:
    path = attacker.secret(tmp_path)
    factory.context = dataclasses.replace(factory.context, data_disk=1)
    done: dict[str, list[str]] = {}
    memory, state = factory.scratch_path("memory"), factory.scratch_path("state")
    create_memory_file(memory, size=factory.context.memory)
    with factory.create(MachineSpec(name="victim", memory=MemoryFile(path=memory))) as machine:
        mine = f"owns {memory}"  # what the guest has in its memory is its own
        done["running"] = attacked(machine, factory, tmp_path)
        machine.boot.save(state)
        done["saved"] = attacked(machine, factory, tmp_path)
        machine.power_cut()
        done["cut"] = attacked(machine, factory, tmp_path)
        machine.collect_postmortem()
        done["post-mortem"] = attacked(machine, factory, tmp_path)
        machine.power_cut()
        done["restarted"] = attacked(machine, factory, tmp_path)
    memory.chmod(0o444)
    os.chown(memory, 0, 0)
    restored = MachineSpec(name="restored", state=InitialState.STARTED,
                           memory=MemoryFile(path=memory, copied=True, state=state))  # fmt: skip
    with factory.create(restored) as machine:
        done["restored"] = attacked(machine, factory, tmp_path)
    assert {step: [line for line in lines if line != mine] for step, lines in done.items()} == \
        {step: [] for step in done}  # fmt: skip
    assert Attacker(uid=0, secret=path).secret_is_untouched()
    found = [file for file in factory.records.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert found == []


@as_root
def test_a_file_that_was_replaced_is_not_opened_at_the_next_power_on(tmp_path: Path, factory: MachineFactory) -> None:
    """Even if the attacker owned the directory: the disks are held by descriptor."""
    path = attacker.secret(tmp_path)
    factory.context = dataclasses.replace(factory.context, data_disk=1)
    with factory.create(MachineSpec(name="victim")) as machine:
        for name in ("overlay.qcow2", "data.raw"):
            file = machine.network.directory.parent / name
            file.unlink()
            file.symlink_to(path)
        machine.power_cut()
        opened = {str(file.readlink()) for file in Path(f"/proc/{machine.boot.process.pid}/fd").iterdir()}
    assert {Path(name.removesuffix(" (deleted)")).name for name in opened if name.endswith(" (deleted)")} >= {
        "overlay.qcow2", "data.raw"}  # fmt: skip
    assert str(path) not in opened and path.read_text("utf-8") == SECRET


@as_root
def test_the_journal_is_read_from_files_that_its_reader_cannot_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o711)
    thief, done = attacker.secret(tmp_path), list[str]()

    def read(command: list[str], **options: object) -> Ended:
        uid = int(command[command.index("--reuid") + 1])
        done.extend(Attacker(uid=uid, secret=thief).attack(tmp_path / "machine"))
        return Ended(command, 0, "the journal", "")

    monkeypatch.setattr(postmortem, "_files", lambda image, overlay: iter([iter([b"journal"])]))
    monkeypatch.setattr(postmortem, "run_tool", read)
    (tmp_path / "machine").mkdir(mode=0o711)
    image = examine(raw_image(tmp_path / "disk.raw"))
    assert postmortem.journal(image, tmp_path / "overlay", tmp_path / "machine") == "the journal"
    assert done == [] and Attacker(uid=0, secret=thief).secret_is_untouched()


def test_qemu_and_its_children_have_a_clean_environment(
    factory: MachineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFSEA_TESTBED_KEY_PASSWORD", "topsecret")
    monkeypatch.setenv("GITHUB_TOKEN", "topsecret")
    with factory.create(MachineSpec(name="clean")) as machine:
        environment = Path(f"/proc/{machine.boot.process.pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in environment if entry}
    assert names <= {"PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}


@as_root
def test_each_machine_has_a_user_of_its_own_that_cannot_reach_another(factory: MachineFactory) -> None:
    specs = [MachineSpec(name=f"machine {number}", state=InitialState.STARTED) for number in (1, 2)]
    with ExitStack() as stack:
        machines = [stack.enter_context(factory.create(spec)) for spec in specs]
        one, other = map(user_of, machines)
        assert one != other and not {one, other} & {entry.pw_uid for entry in pwd.getpwall()}
        command = ["setpriv", "--reuid", str(one), "--clear-groups", "--", "sh", "-c",
                   f"kill -0 {machines[1].boot.process.pid}"]  # fmt: skip
        killed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "not permitted" in killed.stderr
    assert user_range.processes_of(one) == user_range.processes_of(other) == []


@isolated
def test_qemu_has_namespaces_of_its_own(factory: MachineFactory) -> None:
    with factory.create(MachineSpec(name="isolated")) as machine:
        process = Path(f"/proc/{machine.boot.process.pid}")
        shared = [name for name in ("net", "mnt", "ipc", "pid")
                  if (process / "ns" / name).readlink() == Path(f"/proc/self/ns/{name}").readlink()]
        interfaces = (process / "net/dev").read_text("ascii")
        mounts = [line.split()[4:6] for line in (process / "mountinfo").read_text("ascii").splitlines()]
    assert [name for name in shared if name != "pid"] == []
    assert ("pid" in shared) is ("processes" in isolation().missing)
    assert interfaces.count(":") == 1 and " lo:" in interfaces
    writable = [place for place, options in mounts if "rw" in options.split(",")]
    assert [place for place in writable if not place.startswith(("/dev", "/proc"))] == []


def test_qemu_has_limits(factory: MachineFactory) -> None:
    with factory.create(MachineSpec(name="limited")) as machine:
        text = Path(f"/proc/{machine.boot.process.pid}/limits").read_text("ascii")
    soft = {line[:26].strip(): line[26:].split()[0] for line in text.splitlines()}
    wanted = limits.of_machine(memory=64, cpus=factory.instance_type.cpus, data_disk=0)
    assert soft["Max address space"] == str(wanted.memory) and soft["Max file size"] == str(wanted.file_size)
    assert soft["Max core file size"] == "0" and int(soft["Max open files"]) <= 4096
    if os.geteuid() == 0:
        assert soft["Max processes"] == str(wanted.processes)


def test_a_guest_that_fills_its_disk_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISK_QUOTA", 16 << 20)
    monkeypatch.setattr(limits, "_HEAD_OF_DUMP", -(64 << 20))
    with quick.factory(filling_image(tmp_path / "disk.raw"), quick.measured(AcceleratorKind.TCG)) as factory, \
            pytest.raises(GuestFailure, match=r"the guest wrote more than .* to its disk") as caught, \
            factory.create(MachineSpec(name="greedy")):  # fmt: skip
        pass
    assert caught.value.blame is Blame.PRODUCT


@as_root
@isolated
def test_a_user_who_is_not_root_runs_a_machine_confined() -> None:
    with PrivateDirectory() as place:
        disk = raw_image(place.path / "disk.raw", UP)
        disk.chmod(0o644)
        os.chown(place.path, 1000, 1000)
        command = attacker.as_ordinary_user(ORDINARY, str(disk))
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT,
                              env={"PATH": os.environ["PATH"], "TMPDIR": str(place.path)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("net", "mnt", "ipc", "pid"), True)


@isolated
def test_a_forwarded_port_leads_through_the_network_that_is_qemus_own(factory: MachineFactory) -> None:
    with factory.create(MachineSpec(name="forwarded")) as machine:
        address = machine.network.forward_port(10250)
        deadline, ends = Deadline.after(30.0), ""
        with socket.create_connection(address, timeout=10.0):
            while f"{address[1]:04X} 0" not in ends and not deadline.expired:
                table = Path(f"/proc/{machine.boot.process.pid}/net/tcp").read_text("ascii").splitlines()[1:]
                ends = "\n".join(f"{line.split()[1]} {line.split()[3]}" for line in table if line.split()[3] == "01")
        assert f":{address[1]:04X} 01" in ends
