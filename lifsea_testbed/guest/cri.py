"""The container runtime, called as the kubelet calls it: CRI by gRPC on its socket, with the guest's own curl; and ctr.

Sources: k8s.io/cri-api, api.proto, for messages and numbers of fields, which v1 and v1alpha2 have in common; gRPC over
HTTP/2 (grpc.io, PROTOCOL-HTTP2.md) for the framing: a byte 0, the length in four bytes, the message.
"""

from __future__ import annotations

import enum
import json
import re
import shlex
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from lifsea_testbed.errors import GuestFailure, NotJudged, Reason
from lifsea_testbed.guest import protobuf
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.protobuf import Message
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult, Shell

_VERSIONS = ("v1", "v1alpha2")
_PREFIX = struct.Struct(">BI")
#: gRPC's status codes: the server has no such service.
_UNIMPLEMENTED = 12
#: curl(1): it cannot connect; it was built without HTTP/2.
_NO_CONNECTION, _NO_HTTP2 = 7, (1, 2, 4)
_CALL = """curl --silent --show-error --max-time 10 --http2-prior-knowledge --unix-socket {socket} \\
    --header 'Content-Type: application/grpc' --header 'TE: trailers' --dump-header /dev/stderr --data-binary @- \\
    http://localhost/runtime.{version}.{method}"""
_WRITE_PROBE = '''for place in {places}; do
        (true >"$place/.lifsea-testbed") 2>/dev/null && rm "$place/.lifsea-testbed" && echo "$place"
    done; echo tried'''
#: Time for a privileged container to start and run its script, and to prepare an image (seconds on real hardware).
_STARTING, _PREPARING = 60.0, 60.0
T = TypeVar("T")


class Unavailable(GuestFailure):
    """The container runtime does not answer on its socket, or refuses to."""


class ContainerState(enum.IntEnum):
    """The state of a container, by the numbers of the CRI's ContainerState."""

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
class RuntimeStatus:
    """The status of the runtime; `systemd_cgroups` is None where it does not report how it manages control groups."""

    conditions: tuple[Condition, ...]
    systemd_cgroups: bool | None

    @property
    def is_ready(self) -> bool:
        """Whether the two conditions that the kubelet waits for exist and are met."""
        return {"RuntimeReady", "NetworkReady"} <= {one.name for one in self.conditions if one.is_met}


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A pod's sandbox."""

    id: str
    pod: str
    is_ready: bool


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container: its pod and sandbox, and the number of starts before this one."""

    id: str
    pod: str
    sandbox: str
    attempt: int
    state: ContainerState
    labels: dict[str, str] = field(default_factory=dict)


class ContainerRuntime:
    """The container runtime of one machine, on the CRI socket of the profile and by containerd's own tool.

    `escape` is the profile's command that runs a script in a privileged container with the host's root at /host.
    """

    def __init__(self, shell: Shell, settings: ClusterSection, escape: str = "") -> None:
        self._shell = shell
        self._settings = settings
        self._escape = escape

    # The CRI

    def status(self) -> RuntimeStatus:
        """Returns the runtime's conditions and how it manages control groups.

        Raises:
            Unavailable: nothing answers on the socket, or the runtime refuses the call.
            NotJudged: the image has no curl that speaks HTTP/2.
        """
        return self._call("RuntimeService/Status", _runtime_status, protobuf.encode({1: 1}))

    def version(self) -> str:
        """Returns the runtime's name and version, in the form that a node object has it: containerd://1.7.24.

        Raises:
            Unavailable: nothing answers on the socket.
        """
        name, version = self._call("RuntimeService/Version",
                                   lambda answer: (protobuf.text(answer, 2), protobuf.text(answer, 3)))
        # Of a version that is not semantic the kubelet keeps the numbers (pkg/kubelet/kuberuntime, newRuntimeVersion).
        numbers = re.sub(r"^([\d.]+)[^-+\d.].*$", r"\1", version)
        return f"{name}://{numbers}"

    def sandboxes(self, pod: str) -> list[Sandbox]:
        """Returns the sandboxes of a pod, ready or not; the name of a static pod ends with that of its node."""
        found = self._call("RuntimeService/ListPodSandbox", _sandboxes)
        return [one for one in found if _is(one.pod, pod)]

    def containers(self, pod: str) -> list[Container]:
        """Returns the containers of a pod, including those that ended, the latest first."""
        found = self._call("RuntimeService/ListContainers", _containers)
        return sorted((one for one in found if _is(one.pod, pod)), key=lambda one: -one.attempt)

    def images(self) -> list[str]:
        """Returns the names of the images that the runtime has, sorted."""
        return sorted(self._call("ImageService/ListImages", _tags))

    def image_directories(self) -> list[str]:
        """Returns the directories that hold images, sorted: those that the kubelet's garbage collection watches."""
        return sorted(self._call("ImageService/ImageFsInfo",
                                 lambda answer: [_name(one, 2) for one in protobuf.messages(answer, 1)]))

    # containerd's own tool, the commands of the profile, and the kernel's list of sockets

    def containerd_version(self) -> str | None:
        """Returns the version of the containerd that answers on its socket, or nothing if none does."""
        answer = self._shell.run("ctr version", check=False)
        versions = [line.split()[-1] for line in answer.lines if line.strip().startswith("Version:")]
        return versions[-1] if answer.ok and versions else None

    def cri_plugin_state(self) -> str:
        """Returns the state of containerd's CRI plugin as containerd reports it: ok, error, skip, or missing."""
        rows = [line.split() for line in self._shell.run("ctr plugins ls", check=False).lines]
        return next((row[-1] for row in rows if len(row) >= 3 and "cri" in row[1:2]), "missing")

    def kill(self, container: Container) -> None:
        """Kills a container's process, as a crash does."""
        self._shell.run(f"ctr --namespace k8s.io tasks kill --signal SIGKILL {container.id}")

    def prepare_workload(self) -> None:
        """Runs the profile's script that makes the image of the workload known to the runtime, if there is one."""
        if self._settings.prepare:
            self._shell.run(self._settings.prepare, within=_PREPARING)

    def sockets(self) -> list[str]:
        """Returns the paths of unix sockets of containerd's name that are listened on (proc(5), net/unix), sorted."""
        words = [line.split() for line in self._shell.run("cat /proc/net/unix").lines]
        paths = {fields[7] for fields in words if len(fields) > 7 and fields[3] == "00010000"}
        return sorted(path for path in paths if "containerd" in path and path.endswith(".sock"))

    def escaped_writes(self, directories: Iterable[str]) -> list[str]:
        """Returns the host's directories in which a privileged container could create a file; removes the file.

        Raises:
            NotJudged: the profile has no command that starts such a container, or it did not start.
        """
        paths = {f"/host{directory}".rstrip("/"): directory for directory in directories}
        if not self._escape:
            raise NotJudged("the profile does not know how to start a privileged container (containers.escape)",
                            Reason.PROFILE)
        attempt = shlex.quote(_WRITE_PROBE.format(places=shlex.join(paths)))
        result = self._shell.run(f"{self._escape} {attempt}", check=False, within=_STARTING)
        if "tried" not in result.lines:
            raise NotJudged(f"the privileged container did not start: {(split_lines(result.stderr) or [''])[-1]}",
                            Reason.IMAGE)
        return [paths[line] for line in result.lines if line in paths]

    def _call(self, method: str, read: Callable[[Message], T], request: bytes = b"") -> T:
        """Returns what `read` makes of the response.

        Raises:
            Unavailable: nothing answers on the socket, or the runtime refuses the call.
            AnswerUnreadable: the response is not such a message.
            NotJudged: the image has no curl that speaks HTTP/2.
        """
        socket, framed = self._settings.socket, _PREFIX.pack(0, len(request)) + request
        for version in _VERSIONS:
            script = _CALL.format(socket=shlex.quote(socket), version=version, method=method)
            result = self._shell.run(script, check=False, input=framed)
            if result.exit_status in (127, *_NO_HTTP2):
                raise NotJudged("the image has no curl that speaks HTTP/2 to call its container runtime with",
                                Reason.IMAGE)
            status, why = _status(result)
            if status == _UNIMPLEMENTED:
                continue
            if not result.ok or status != 0:
                raise Unavailable(f"no CRI at {socket}: {why or 'nothing answers'}",
                                  expected="the runtime answers there", evidence=result.stderr[-2000:])  # fmt: skip
            with readable(result, expected="a message of the CRI, framed by gRPC"):
                return read(protobuf.decode(_unframed(result.output)))
        raise Unavailable(f"no CRI at {socket}: {why}", expected=f"one of {', '.join(_VERSIONS)}")


def _is(found: str, pod: str) -> bool:
    """Whether a pod's name is that of the pod; that of a static one is followed by its node's name."""
    return found == pod or found.startswith(f"{pod}-")


def _unframed(response: bytes) -> bytes:
    """The message of a response; raises ValueError or struct.error where it is not framed as gRPC does."""
    compressed, length = _PREFIX.unpack_from(response)
    if compressed or length != len(response) - _PREFIX.size:
        raise ValueError(f"{len(response) - _PREFIX.size} bytes after a prefix that announces {length}")
    return response[_PREFIX.size:]


def _runtime_status(answer: Message) -> RuntimeStatus:
    found = [Condition(name=protobuf.text(one, 1), is_met=bool(protobuf.whole(one, 2)),
                       reason=protobuf.text(one, 3), message=protobuf.text(one, 4))
             for status in protobuf.messages(answer, 1) for one in protobuf.messages(status, 1)]  # fmt: skip
    configuration = protobuf.pairs(answer, 2).get("config", "")
    return RuntimeStatus(conditions=tuple(found), systemd_cgroups=_systemd_cgroups(configuration))


def _sandboxes(answer: Message) -> list[Sandbox]:
    return [Sandbox(id=protobuf.text(one, 1), pod=_name(one, 2), is_ready=not protobuf.whole(one, 3))
            for one in protobuf.messages(answer, 1)]  # fmt: skip


def _containers(answer: Message) -> list[Container]:
    return [_container(one) for one in protobuf.messages(answer, 1)]


def _tags(answer: Message) -> list[str]:
    tags = [tag for one in protobuf.messages(answer, 1) for tag in one.get(2, [])]
    return [tag.decode("utf-8", "replace") for tag in tags if isinstance(tag, bytes)]


def _container(one: Message) -> Container:
    labels = protobuf.pairs(one, 8)
    (about,) = protobuf.messages(one, 3) or [{}]
    return Container(id=protobuf.text(one, 1), sandbox=protobuf.text(one, 2), attempt=protobuf.whole(about, 2),
                     state=ContainerState(protobuf.whole(one, 6)), labels=labels,
                     pod=labels.get("io.kubernetes.pod.name", ""))  # fmt: skip


def _name(message: Message, number: int) -> str:
    """The first text within a message within that message: a name, or a mount point."""
    return next((protobuf.text(one, 1) for one in protobuf.messages(message, number)), "")


def _systemd_cgroups(configuration: str) -> bool | None:
    """Reads `SystemdCgroup` of the default runtime."""
    try:
        containerd = json.loads(configuration)["containerd"]
        options = containerd["runtimes"][containerd["defaultRuntimeName"]]["options"]
        return bool((options or {}).get("SystemdCgroup"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _status(answer: CommandResult) -> tuple[int | None, str]:
    """The status of a call, and the reason of a failure: gRPC's message, or else curl's."""
    headers = answer.stderr
    status, why = re.findall(r"(?im)^grpc-status: (\d+)", headers), re.findall(r"(?im)^grpc-message: (.+)$", headers)
    curl = re.findall(r"(?m)^curl: \(\d+\) (.+)$", headers)
    with readable(answer, expected="gRPC's status, a number"):
        return (int(status[-1]) if status else None), (why or curl or [""])[-1].strip()
