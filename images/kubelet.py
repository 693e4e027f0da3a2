"""The kubelet, from Debian's source of kubernetes."""

from __future__ import annotations

import re
from pathlib import Path

from images.archive import Archive
from images.command import run
from images.errors import BuildError
from images.store import Store

_SUITE = "bookworm"
_VERSION = "k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion"

# Before 1.24 a kubelet looks for dockerd five times, a second apart, whatever its container runtime is.
_DOCKER = "vendor/github.com/google/cadvisor/container/docker/factory.go"
_ASKED = "const rootDirRetries = 5\n"


def kubelet(store: Store) -> Path:
    """Returns a statically linked kubelet."""
    return store.artefact("kubelet", [Path(__file__)], lambda into: _build(store, into)) / "kubelet"


def _build(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        source = scratch / "go/src/k8s.io/kubernetes"
        source.parent.mkdir(parents=True)
        packaged = Archive(scratch / "apt", sources=_SUITE).unpack_source("kubernetes", source)
        do_not_wait_for_docker(source / _DOCKER)
        environment = {
            "GOPATH": str(scratch / "go"), "GOCACHE": str(scratch / "cache"), "GO111MODULE": "off",
            "GOFLAGS": "-trimpath", "CGO_ENABLED": "0",
        }  # fmt: skip
        flags = f"-s -w -X {_VERSION}=v{upstream_version(packaged)}"
        run("go", "build", "-ldflags", flags, "-o", into / "kubelet", "./cmd/kubelet", cwd=source,
            environment=environment)  # fmt: skip


def do_not_wait_for_docker(file: Path) -> None:
    """Takes the kubelet's wait for a dockerd out of its source.

    Raises:
        BuildError: the source is another than this recipe knows.
    """
    text = file.read_text("utf-8")
    if _ASKED not in text:
        raise BuildError(f"{file.name} of cAdvisor does not have {_ASKED.strip()!r}")
    file.write_text(text.replace(_ASKED, "const rootDirRetries = 0\n"), "utf-8")


def upstream_version(packaged: str) -> str:
    """Returns the upstream version in a Debian version; what stands after "really" is what it really is.

    Raises:
        BuildError: it has no upstream version of three numbers.
    """
    found = re.match(r"(\d+\.\d+\.\d+)(?:[-+~]|$)", packaged.rpartition("+really")[2])
    if not found:
        raise BuildError(f"no upstream version in {packaged!r}")
    return found[1]
