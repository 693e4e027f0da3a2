"""The container images on board: pause, for every pod, operations, for lifseacli, and bootstrap, for a first boot."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from images.archive import Archive
from images.command import run
from images.errors import BuildError
from images.store import Store

_PAUSE = Path(__file__).parent / "reference" / "pause.c"
_PLATFORM = {"architecture": "amd64", "os": "linux"}
_SOCKET_APPEARS = 20.0
# Without the CRI plugin, which would ask for a network; and without snapshotters that need other file systems.
_CONTAINERD = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{directory}/socket"
"""


def containers(store: Store, suite: str) -> Path:
    """Returns the content of /var/lib/containerd with the images in it, unpacked and ready to start."""
    return store.artefact("containers", [Path(__file__), _PAUSE, suite], lambda into: _build(store, suite, into))


def image_archive(tag: str, files: Mapping[str, bytes | str], entrypoint: list[str]) -> bytes:
    """Returns a container image as `docker save` would: one layer of executables (bytes) and links (text)."""
    layer = _tar({name: files[name] for name in sorted(files)})
    digest = hashlib.sha256(layer).hexdigest()
    configuration = json.dumps({
        **_PLATFORM, "config": {"Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"created_by": "images"}],
    }).encode()  # fmt: skip
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": [f"{digest}/layer.tar"]}]
    return _tar({name: configuration, f"{digest}/layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def _tar(files: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _build(store: Store, suite: str, into: Path) -> None:
    with store.scratch() as scratch:
        (scratch / "pause.tar").write_bytes(_pause(scratch))
        Archive(scratch / "apt", packages=suite).unpack(["busybox-static", "dash"], scratch / "packages")
        (scratch / "operations.tar").write_bytes(_operations(_program(scratch / "packages", "busybox")))
        (scratch / "bootstrap.tar").write_bytes(_bootstrap(_program(scratch / "packages", "dash")))
        names = {"pause": "k8s.io", "operations": "lifsea", "bootstrap": "lifsea"}
        _import([(namespace, scratch / f"{name}.tar") for name, namespace in names.items()], scratch)
        run("cp", "--archive", f"{scratch}/root/.", into)


def _pause(scratch: Path) -> bytes:
    run("gcc", "-Os", "-static", "-s", "-o", scratch / "pause", _PAUSE)
    return image_archive("lifsea.local/pause:1", {"pause": (scratch / "pause").read_bytes()}, ["/pause"])


def _program(packages: Path, name: str) -> Path:
    (program,) = [path for path in packages.glob(f"**/bin/{name}") if path.is_file()]
    return program


def _operations(busybox: Path) -> bytes:
    links = dict.fromkeys((f"bin/{name}" for name in run(busybox, "--list").split() if name != "busybox"), "busybox")
    return image_archive("lifsea.local/operations:1", {"bin/busybox": busybox.read_bytes(), **links}, ["/bin/sh"])


def _bootstrap(shell: Path) -> bytes:
    """A shell alone: its C library and all other programs are those of the host, whose /usr the container has."""
    return image_archive("lifsea.local/bootstrap:1", {"bin/sh": shell.read_bytes()}, ["/bin/sh"])


def _import(archives: list[tuple[str, Path]], scratch: Path) -> None:
    configuration = scratch / "containerd.toml"
    configuration.write_text(_CONTAINERD.format(directory=scratch))
    with (scratch / "log").open("wb") as log:
        daemon = subprocess.Popen(["containerd", "--config", str(configuration)], stdout=log, stderr=log)
    try:
        _await(scratch / "socket", daemon, scratch / "log")
        for namespace, archive in archives:
            run("ctr", "--address", scratch / "socket", "--namespace", namespace, "images", "import", archive)
    finally:
        daemon.terminate()
        daemon.wait()


def _await(socket: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SOCKET_APPEARS
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise BuildError(f"containerd did not come up on the host; its log ends: {log.read_text()[-1500:]}")
        time.sleep(0.05)
