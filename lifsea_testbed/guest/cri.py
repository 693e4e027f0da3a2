"""The Container Runtime Interface, asked as the kubelet asks it: gRPC on containerd's socket, by the guest's own curl.

Sources: k8s.io/cri-api, api.proto, for messages and numbers of fields, which v1 and v1alpha2 have in common; gRPC over
HTTP/2 (grpc.io, PROTOCOL-HTTP2.md) for the framing: a byte 0, the length in four bytes, the message.
"""

from __future__ import annotations

import enum
import json
import re
import shlex
import struct
from dataclasses import dataclass, field

from lifsea_testbed.errors import GuestFailure, NotJudged
from lifsea_testbed.guest import protobuf
from lifsea_testbed.guest.protobuf import Message
from lifsea_testbed.support.protocols import Shell

SOCKET = "/run/containerd/containerd.sock"
_VERSIONS = ("v1", "v1alpha2")
_PREFIX = struct.Struct(">BI")
#: gRPC's status codes: the server has no such service.
_UNIMPLEMENTED = 12
#: curl(1): it cannot connect; it was built without HTTP/2.
_NO_CONNECTION, _NO_HTTP2 = 7, (1, 2, 4)
_ASK = """curl --silent --show-error --max-time 10 --http2-prior-knowledge --unix-socket {socket} \\
    --header 'Content-Type: application/grpc' --header 'TE: trailers' --dump-header /dev/stderr --data-binary @- \\
    http://localhost/runtime.{version}.{method}"""


class Unavailable(GuestFailure):
    """The container runtime does not answer on its socket, or refuses to."""


class State(enum.IntEnum):
    """What a container is doing (ContainerState)."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of the runtime: RuntimeReady or NetworkReady, with a reason if it is not met."""

    name: str
    is_met: bool
    reason: str = ""
    message: str = ""

    def __str__(self) -> str:
        """As in `NetworkReady=false: cni plugin not initialized`."""
        why = self.message.rpartition("error: ")[2] or self.reason
        return f"{self.name}={str(self.is_met).lower()}{f': {why}' if why else ''}"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What the runtime says of itself; `systemd_cgroups` is None where it does not say how it drives control groups."""

    conditions: tuple[Condition, ...]
    systemd_cgroups: bool | None

    @property
    def is_ready(self) -> bool:
        """Whether each condition is met, and there are the two that the kubelet waits for."""
        return {"RuntimeReady", "NetworkReady"} <= {one.name for one in self.conditions if one.is_met}


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A pod's sandbox."""

    id: str
    pod: str
    is_ready: bool


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container: whose, in which sandbox, how often it was started before."""

    id: str
    pod: str
    sandbox: str
    attempt: int
    state: State
    labels: dict[str, str] = field(default_factory=dict)


def runtime(shell: Shell, socket: str = SOCKET) -> Runtime:
    """Returns the runtime's conditions and how it drives control groups.

    Raises:
        Unavailable: nothing answers there, or it refuses.
        NotJudged: the image has no curl that speaks HTTP/2.
    """
    answer = _ask(shell, socket, "RuntimeService/Status", protobuf.encode({1: 1}))
    found = [Condition(name=protobuf.text(one, 1), is_met=bool(protobuf.whole(one, 2)),
                       reason=protobuf.text(one, 3), message=protobuf.text(one, 4))
             for status in protobuf.messages(answer, 1) for one in protobuf.messages(status, 1)]  # fmt: skip
    configuration = protobuf.pairs(answer, 2).get("config", "")
    return Runtime(conditions=tuple(found), systemd_cgroups=_systemd_cgroups(configuration))


def version(shell: Shell, socket: str = SOCKET) -> str:
    """Returns the runtime's name and version, as nodes have it: containerd://1.7.24.

    Raises:
        Unavailable: nothing answers there.
    """
    answer = _ask(shell, socket, "RuntimeService/Version")
    # Of a version that is not semantic the kubelet keeps the numbers (pkg/kubelet/kuberuntime, newRuntimeVersion).
    numbers = re.sub(r"^([\d.]+)[^-+\d.].*$", r"\1", protobuf.text(answer, 3))
    return f"{protobuf.text(answer, 2)}://{numbers}"


def sandboxes(shell: Shell, socket: str = SOCKET) -> list[Sandbox]:
    """Returns every sandbox, ready or not."""
    answer = _ask(shell, socket, "RuntimeService/ListPodSandbox")
    return [Sandbox(id=protobuf.text(one, 1), pod=_name(one, 2), is_ready=not protobuf.whole(one, 3))
            for one in protobuf.messages(answer, 1)]  # fmt: skip


def containers(shell: Shell, socket: str = SOCKET) -> list[Container]:
    """Returns every container, those that ended included."""
    answer = _ask(shell, socket, "RuntimeService/ListContainers")
    return [_container(one) for one in protobuf.messages(answer, 1)]


def images(shell: Shell, socket: str = SOCKET) -> list[str]:
    """Returns the names of the images on board."""
    answer = _ask(shell, socket, "ImageService/ListImages")
    tags = [tag for one in protobuf.messages(answer, 1) for tag in one.get(2, [])]
    return sorted(tag.decode("utf-8", "replace") for tag in tags if isinstance(tag, bytes))


def image_directories(shell: Shell, socket: str = SOCKET) -> list[str]:
    """Returns the directories in which images are kept: what the kubelet's garbage collection looks after."""
    answer = _ask(shell, socket, "ImageService/ImageFsInfo")
    return sorted(_name(one, 2) for one in protobuf.messages(answer, 1))


def _container(one: Message) -> Container:
    labels = protobuf.pairs(one, 8)
    (about,) = protobuf.messages(one, 3) or [{}]
    return Container(id=protobuf.text(one, 1), sandbox=protobuf.text(one, 2), attempt=protobuf.whole(about, 2),
                     state=State(protobuf.whole(one, 6)), labels=labels,
                     pod=labels.get("io.kubernetes.pod.name", ""))  # fmt: skip


def _name(message: Message, number: int) -> str:
    """The first text within a message within that message: a name, or a mount point."""
    return next((protobuf.text(one, 1) for one in protobuf.messages(message, number)), "")


def _systemd_cgroups(configuration: str) -> bool | None:
    """Reads `SystemdCgroup` of the runtime that is used by default."""
    try:
        containerd = json.loads(configuration)["containerd"]
        options = containerd["runtimes"][containerd["defaultRuntimeName"]]["options"]
    except (ValueError, KeyError, TypeError):
        return None
    return bool((options or {}).get("SystemdCgroup"))


def _ask(shell: Shell, socket: str, method: str, request: bytes = b"") -> Message:
    framed = _PREFIX.pack(0, len(request)) + request
    for version in _VERSIONS:
        script = _ASK.format(socket=shlex.quote(socket), version=version, method=method)
        said = shell.run(script, check=False, input=framed)
        if said.exit_status in (127, *_NO_HTTP2):
            raise NotJudged("the image has no curl that speaks HTTP/2 to ask its container runtime with")
        status, why = _status(said.stderr)
        if status == _UNIMPLEMENTED:
            continue
        if not said.ok or status != 0:
            raise Unavailable(f"no CRI at {socket}: {why or 'nothing answers'}", expected="the runtime answers there",
                              evidence=said.stderr[-2000:])  # fmt: skip
        return protobuf.decode(said.output[_PREFIX.size:])
    raise Unavailable(f"no CRI at {socket}: {why}", expected=f"one of {', '.join(_VERSIONS)}")


def _status(headers: str) -> tuple[int | None, str]:
    """The status of a call and why it failed: of gRPC, or what curl said."""
    status, why = re.findall(r"(?im)^grpc-status: (\d+)", headers), re.findall(r"(?im)^grpc-message: (.+)$", headers)
    curl = re.findall(r"(?m)^curl: \(\d+\) (.+)$", headers)
    return (int(status[-1]) if status else None), (why or curl or [""])[-1].strip()
