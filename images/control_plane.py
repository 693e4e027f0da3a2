"""The control plane that nodes are tried with, from the source of kubernetes that their kubelet is of.

It is not part of any image: the test bed runs it on the host. Its etcd is Debian's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from images.archive import Archive
from images.command import run
from images.kubelet import upstream_version
from images.store import Store

#: The programs, by the names of their directories below cmd/.
PROGRAMS = ("kube-apiserver", "kube-controller-manager")
_SUITE = "bookworm"
_HERE = "k8s.io/kubernetes"
# Both have the version: one is what programs say, the other what the API does (hack/lib/version.sh).
_VERSIONS = [f"{_HERE}/vendor/k8s.io/{package}" for package in ("component-base/version", "client-go/pkg/version")]
_GENERATED = f"{_HERE}/pkg/generated/openapi"
_GENERATOR = "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"
# What asks for definitions in the API's description; these trees have descriptions of their own.
_MARK = b"+k8s:openapi-gen="
_ASIDE = ("code-generator", "sample-apiserver")


def control_plane(store: Store) -> Path:
    """Returns a directory with kube-apiserver and kube-controller-manager, statically linked."""
    return store.artefact("control-plane", [Path(__file__)], lambda into: _build(store, into))


def _build(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        source = scratch / "go/src" / _HERE
        source.parent.mkdir(parents=True)
        packaged = Archive(scratch / "apt", sources=_SUITE).unpack_source("kubernetes", source)
        environment = {
            "GOPATH": str(scratch / "go"), "GOCACHE": str(scratch / "cache"), "GO111MODULE": "off",
            "GOFLAGS": "-trimpath", "CGO_ENABLED": "0", "GOROOT": run("go", "env", "GOROOT").strip(),
        }  # fmt: skip
        _describe_the_api(source, scratch, environment)
        number = upstream_version(packaged)
        major, minor, _ = number.split(".")
        stamps = {"gitVersion": f"v{number}", "gitMajor": major, "gitMinor": minor}
        flags = " ".join(["-s", "-w", *(f"-X {place}.{name}={value}" for place in _VERSIONS
                                        for name, value in stamps.items())])  # fmt: skip
        run("go", "build", "-ldflags", flags, "-o", f"{into}{os.sep}", *(f"./cmd/{name}" for name in PROGRAMS),
            cwd=source, environment=environment)  # fmt: skip


def _describe_the_api(source: Path, scratch: Path, environment: dict[str, str]) -> None:
    """Generates the one file of the API server that is not in the source, as `make generated_files` would."""
    generator = scratch / "openapi-gen"
    run("go", "build", "-o", generator, _GENERATOR, cwd=source, environment=environment)
    packages = ",".join(f"{_HERE}/{directory}" for directory in described(source))
    run(generator, "--logtostderr", "-i", packages, "-p", _GENERATED, "-O", "zz_generated.openapi",
        "-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-r", scratch / "violations",
        cwd=source, environment=environment)  # fmt: skip


def described(source: Path) -> list[str]:
    """Returns the directories, below the source, of the packages whose types the API's description has."""
    return sorted({directory for directory in _marked(source) if not any(name in directory for name in _ASIDE)})


def _marked(source: Path) -> Iterator[str]:
    places = {"pkg": source / "pkg", "vendor/k8s.io": source / "staging/src/k8s.io"}
    for name, place in places.items():
        for file in place.rglob("*.go"):
            if _MARK in file.read_bytes():
                yield f"{name}/{file.parent.relative_to(place)}"
