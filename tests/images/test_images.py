"""The recipes, as far as they can be tested without a build."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from pathlib import Path

import pytest

from images import bootloader, cli, containers, disk, kubelet, mutations, reference, tree
from images.bootloader import BootLoader, Platform
from images.command import run
from images.errors import BuildError
from images.store import Store, fingerprint
from lifsea_testbed.disk.ext4 import Ext4, is_ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import partitions
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import RawFile

IMAGES = Path(reference.__file__).parent


def test_an_artefact_is_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), list[str]()

    def make(into: Path) -> None:
        made.append(into.name)
        (into / "file").write_text("content")

    one, two = (store.artefact("kernel", ["recipe"], make) for _ in range(2))
    assert one == two and (one / "file").read_text() == "content" and len(made) == 1
    assert store.artefact("kernel", ["another recipe"], make) != one


def test_only_the_last_used_results_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(5):
        made = store.artefact("kernel", [str(number)], lambda into: None)
        os.utime(made, (number, number))
    store.artefact("kernel-2", ["other"], lambda into: None)
    assert made.is_dir() and len(list(tmp_path.glob("kernel-*/"))) == 4


def test_a_recipe_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").touch()
        raise BuildError("no")

    with pytest.raises(BuildError):
        Store(tmp_path).artefact("kernel", ["recipe"], fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_remains_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    (tmp_path / "scratch-of-4194399-x" / "made").mkdir(parents=True)
    (tmp_path / f"scratch-of-{os.getpid()}-x").mkdir()
    Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"scratch-of-{os.getpid()}-x"]


def test_a_fingerprint_sees_every_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("file")
    seen = {fingerprint([tmp_path])}
    (tmp_path / "file").write_text("b")
    seen.add(fingerprint([tmp_path]))
    (tmp_path / "file").chmod(0o755)
    seen.add(fingerprint([tmp_path]))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("other")
    seen.add(fingerprint([tmp_path]))
    assert len(seen) == 4 and fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])


def test_a_failing_program_shows_its_last_lines() -> None:
    with pytest.raises(BuildError, match="status 3") as caught:
        run("sh", "-c", "for i in $(seq 50); do echo line $i; done; exit 3")
    assert "line 50" in str(caught.value) and "line 20\n" not in str(caught.value)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(BuildError, match="no-such-program was not found"):
        run("no-such-program")


@pytest.mark.parametrize(("packaged", "upstream"), [
    ("1.20.5+really1.20.2-1.1+deb12u1", "1.20.2"), ("1.31.4-1", "1.31.4"), ("1.20.2", "1.20.2"),
])  # fmt: skip
def test_the_upstream_version_is_what_it_really_is(packaged: str, upstream: str) -> None:
    assert kubelet.upstream_version(packaged) == upstream


def test_a_kubelet_without_docker_waits_for_none(tmp_path: Path) -> None:
    (source := tmp_path / "factory.go").write_text("package docker\nconst rootDirRetries = 5\n")
    kubelet.do_not_wait_for_docker(source)
    assert "Retries = 0" in source.read_text()
    with pytest.raises(BuildError, match="factory"):
        kubelet.do_not_wait_for_docker(source)


def test_grub_knows_its_sectors() -> None:
    code = bootloader.boot_code(bytes(512))
    assert len(code) == 440 and struct.unpack_from("<Q", code, 0x5C) == (2048,) and code[0x64] == 0xFF
    core = bootloader.with_block_list(bytes(5 * 512))
    assert struct.unpack_from("<QHH", core, 500) == (2049, 4, 0x820)


@pytest.mark.parametrize(("size", "stumbles"), [(16, True), (17, False), (31, False), (32, True)])
def test_an_entry_that_overflows_grubs_buffer_is_refused(size: int, stumbles: bool) -> None:
    entry = f"title x\noptions {'o' * (size - 8 - 4)}\nlinux /lin\n".replace("/lin", "/lin"[:4])
    if stumbles:
        with pytest.raises(BuildError, match="one byte longer"):
            bootloader.refuse_overflowing_entry(entry)
    else:
        bootloader.refuse_overflowing_entry(entry)


def test_a_container_image_is_the_same_every_time() -> None:
    def make() -> bytes:
        return containers.image_archive("x:1", {"bin/sh": "busybox", "bin/busybox": b"\x7fELF"}, ["/bin/sh"])

    with tarfile.open(fileobj=io.BytesIO(make())) as archive:
        member = archive.extractfile("manifest.json")
        assert member is not None
        (manifest,) = json.load(member)
        assert manifest["RepoTags"] == ["x:1"] and {manifest["Config"], *manifest["Layers"]} <= set(archive.getnames())
    assert make() == make()


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("var/lib/dpkg/info", "usr/bin", "usr/lib/systemd/system/x.wants", "usr/share", "etc"):
        (root / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("Package: stays\nVersion: 1\n\nPackage: goes\nVersion: 2\n")
    (root / "var/lib/dpkg/info/stays.list").write_text("/usr\n/usr/bin/shared\n/usr/bin/kept\n")
    (root / "var/lib/dpkg/info/goes:amd64.list").write_text("/usr\n/usr/bin/shared\n/usr/bin/gone\n")
    for name in ("shared", "kept", "gone"):
        (root / "usr/bin" / name).write_text("#!/bin/sh\n")
    return root


def test_a_purged_package_takes_only_its_own_files(small_tree: Path) -> None:
    tree.purge(small_tree, ["goes", "was-never-there"])
    assert sorted(path.name for path in (small_tree / "usr/bin").iterdir()) == ["kept", "shared"]
    assert "Package: goes" not in (small_tree / "usr/share/package-db/status").read_text()


def test_what_nothing_can_run_is_trimmed(small_tree: Path) -> None:
    (small_tree / "usr/bin/script").write_text("#!/usr/bin/perl -w\n")
    units = small_tree / "usr/lib/systemd/system"
    (units / "there.service").touch()
    (units / "x.wants/there.service").symlink_to("../there.service")
    (units / "x.wants/gone.service").symlink_to("/usr/lib/systemd/system/gone.service")
    (units / "masked.service").symlink_to("/dev/null")
    tree.trim(small_tree, tree.Lists(install=[], purge=[], exclude=[], wants={}, keep={"usr/bin": ["k*", "script"]},
                                     remove={"usr": ["share"]}))  # fmt: skip
    assert [path.name for path in (small_tree / "usr/bin").iterdir()] == ["kept"]
    assert sorted(path.name for path in units.rglob("*.service")) == ["masked.service", "there.service",
                                                                      "there.service"]  # fmt: skip
    assert not (small_tree / "usr/share").exists()


def test_an_instance_of_a_template_is_wanted_by_its_template(small_tree: Path) -> None:
    (small_tree / "usr/lib/systemd/system/serial-getty@.service").touch()
    tree.want(small_tree, {"getty.target": ["serial-getty@ttyS0.service"]})
    link = small_tree / "usr/lib/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
    assert str(link.readlink()) == "../serial-getty@.service"


def test_a_unit_that_does_not_exist_cannot_be_wanted(small_tree: Path) -> None:
    with pytest.raises(BuildError, match=r"no gone\.service"):
        tree.want(small_tree, {"multi-user.target": ["gone.service"]})


def test_root_is_locked(small_tree: Path) -> None:
    (small_tree / "etc/shadow").write_text("root::1:\nbin:*:1:\n")
    tree.lock_root(small_tree)
    assert (small_tree / "etc/shadow").read_text() == "root:*:1:\nbin:*:1:\n"


def test_the_lists_of_the_reference_image_can_be_read() -> None:
    lists = tree.Lists.read(IMAGES / "reference" / "tree.toml")
    assert {"ostree", "containerd", "chrony"} <= set(lists.install)
    assert not {"openssh-server", "python3"} & set(lists.install)


def test_the_next_version_differs_in_kernel_and_files() -> None:
    assert reference.NEXT.number > reference.REFERENCE.number
    assert reference.NEXT.kernel != reference.REFERENCE.kernel
    assert any(name.startswith("etc/") for name, _ in reference.NEXT.new_files)


def test_an_image_is_delivered_once(tmp_path: Path) -> None:
    (tmp_path / "cached").write_bytes(b"image")
    output = tmp_path / "build" / "out.qcow2"
    cli.deliver(tmp_path / "cached", output)
    first = output.stat()
    cli.deliver(tmp_path / "cached", output)
    assert output.read_bytes() == b"image" and output.stat().st_ino == first.st_ino
    os.utime(tmp_path / "cached", (1, 1))
    cli.deliver(tmp_path / "cached", output)
    assert output.stat().st_ino != first.st_ino


def test_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["build", "windows", "-o", "x.qcow2"])
    assert "invalid choice" in capsys.readouterr().err


def test_an_invalid_mutant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "_RECIPES", tmp_path)
    (tmp_path / "odd.toml").write_text('claim = "no-sshd"\nchange = "x."\nwhy = "y."\ncolour = "red"\n')
    for name, complaint in (("odd", "colour"), ("none", "No such file")):
        with pytest.raises(BuildError, match=complaint):
            mutations.read(name)


def test_the_programs_of_the_lines_are_compiled_without_a_warning(tmp_path: Path) -> None:
    for source in ("3.4/preinit.c", "3.5/lifseacli.c"):
        run("gcc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "program", IMAGES / "reference" / source)
    for script in ("3.4/tree.sh", "3.5/tree.sh", "3.5/bootstrap", "3.5/metadata", "3.6/tree.sh", "3.6/metadata"):
        run("sh", "-n", IMAGES / "reference" / script)


#: containerd's tool, as far as the operations tool uses it: a file says which state the container is in.
CTR = """#!/bin/sh
shift 2
echo "$*" >>{place}/calls
case "$1 $2" in
"tasks list") echo "TASK PID STATUS"; [ ! -e {place}/task ] || echo "operations    17    RUNNING" ;;
"containers list") [ ! -e {place}/container ] || echo operations ;;
"tasks kill") rm {place}/task ;;
"containers delete") rm {place}/container ;;
"run --detach") touch {place}/task {place}/container ;;
esac
"""


def test_the_operations_tool_of_a_host_without_a_shell_does_what_its_script_does(tmp_path: Path) -> None:
    (tool := tmp_path / "ctr").write_text(CTR.format(place=tmp_path))
    tool.chmod(0o755)
    defines = [f'-D{name}="{path}"' for name, path in {"PROGRAM": tool, "LOG": tmp_path / "log"}.items()]
    run("gcc", *defines, "-o", program := tmp_path / "lifseacli", IMAGES / "reference/3.5/lifseacli.c")

    assert [run(program, "container", verb) for verb in ("status", "start", "status", "stop", "status")] == [
        "stopped\n", "", "running\n", "", "stopped\n"]
    run(program, "container", "start")
    assert (tmp_path / "calls").read_text().count("containers delete operations") == 1
    run(program, "container", "restart")
    run(program, "container", "rm")
    assert not (tmp_path / "container").exists() and not (tmp_path / "task").exists()
    with pytest.raises(BuildError, match="usage: lifseacli"):
        run(program, "container", "dance")
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 9 and log[-1].endswith(f"uid={os.getuid()} lifseacli container dance")


def made_disk(tmp_path: Path, platform: Platform, files: list[str], metadata: int = 0) -> Path:
    """An image with next to nothing on it, and a boot loader of those files."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "root").mkdir()
    for name in files:
        (tmp_path / "loader" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loader" / name).write_bytes(name.encode().ljust(2048, b"."))
    loader = BootLoader(platform=platform, directory=tmp_path / "loader")
    image = tmp_path / "image.qcow2"
    disk.make(image, boot=tmp_path / "boot", root=tmp_path / "root", root_size=8, loader=loader, metadata=metadata)
    return image


def test_a_disk_with_metadata_has_a_fifth_partition(tmp_path: Path) -> None:
    image = made_disk(tmp_path, Platform.BIOS, ["boot.img", "core.img"], metadata=8)
    with RawFile(image) as file:
        parts = [part for part in partitions(Qcow2(file)) if is_ext4(part.content)]
        assert [part.number for part in parts] == [3, 4, 5]
        assert {"upper", "work"} <= set(Tree(root_of(Ext4(parts[-1].content))).names("/"))


def test_a_loader_for_uefi_lies_on_the_esp_alone(tmp_path: Path) -> None:
    names = [str(bootloader.ESP_LOADER), str(bootloader.ESP_GRUB)]
    image = made_disk(tmp_path, Platform.UEFI, names)
    run("qemu-img", "convert", "-O", "raw", image, raw := tmp_path / "image.raw")
    with RawFile(raw) as file:
        bios, esp = partitions(file)[:2]
        assert file.read_at(0, 440) == bytes(440) and bios.content.read_at(0, bios.content.size).count(0) == 1 << 20
    for name in names:
        assert run("mtype", "-i", f"{raw}@@{2 << 20}", f"::{name}").startswith(name)
    assert esp.number == 2


@pytest.mark.parametrize("name", mutations.names())
def test_the_scripts_of_a_mutant_are_scripts(name: str) -> None:
    mutant = mutations.read(name)
    run("bash", "-n", "-c", f"{mutant.tree}\n{mutant.sysroot}")
    assert mutant.recipe != mutations.read(next(other for other in mutations.names() if other != name)).recipe


def test_the_functions_of_mutants_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "object").hardlink_to(tmp_path / "file")
    script = f". '{IMAGES}/mutants/functions.sh'; echo new | replace file; echo true | unit late exec"
    run("bash", "-eu", "-c", script, cwd=tmp_path)
    assert ((tmp_path / "file").read_text(), (tmp_path / "object").read_text()) == ("new\n", "old")
    units = tmp_path / "usr/lib/systemd/system"
    assert "Type=exec" in (units / "multi-user.target.wants/late.service").read_text()
    assert (tmp_path / "usr/libexec/extra/late").stat().st_mode & 0o111


def test_the_table_of_mutants_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mutants"]) == 0
    assert "| `python-in-libexec` | `no-python` |" in capsys.readouterr().out
