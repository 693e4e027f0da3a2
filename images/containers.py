"""The container images on board: pause, which every pod needs, and operations, which lifseacli starts."""

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
    """Returns the content of /var/lib/containerd with both images in it, unpacked and ready to start."""
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
        (scratch / "operations.tar").write_bytes(_operations(scratch, suite))
        wanted = [("k8s.io", scratch / "pause.tar"), ("lifsea", scratch / "operations.tar")]
        _import(wanted, scratch)
        run("cp", "--archive", f"{scratch}/root/.", into)


def _pause(scratch: Path) -> bytes:
    run("gcc", "-Os", "-static", "-s", "-o", scratch / "pause", _PAUSE)
    return image_archive("lifsea.local/pause:1", {"pause": (scratch / "pause").read_bytes()}, ["/pause"])


def _operations(scratch: Path, suite: str) -> bytes:
    Archive(scratch / "apt", packages=suite).unpack(["busybox-static"], scratch / "busybox")
    (program,) = [path for path in scratch.glob("busybox/**/bin/busybox") if path.is_file()]
    links = dict.fromkeys((f"bin/{name}" for name in run(program, "--list").split() if name != "busybox"), "busybox")
    return image_archive("lifsea.local/operations:1", {"bin/busybox": program.read_bytes(), **links}, ["/bin/sh"])


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
