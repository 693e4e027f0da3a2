"""The CRI, called by curl: messages on the wire, and their contents."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import protobuf
from lifsea_testbed.guest.cri import ContainerRuntime, ContainerState, Unavailable
from lifsea_testbed.guest.protobuf import encode
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.protocols import CommandResult, Shell

HEADERS = "HTTP/2 200 \r\ncontent-type: application/grpc\r\n\r\ngrpc-status: {}\r\ngrpc-message: {}\r\n"


def runtime(shell: Shell) -> ContainerRuntime:
    return ContainerRuntime(shell, ClusterSection())


class FakeRuntime:
    """Answers each call by its name: with a message, or with a status of gRPC."""

    def __init__(self, answers: dict[str, bytes | int], *, status: int = 0, errors: str = "") -> None:
        self._answers, self._status, self._errors = answers, status, errors
        self.requests: list[bytes] = []

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        self.requests.append(input)
        answer = next((answer for name, answer in self._answers.items() if name in str(command)), 12)
        body = struct.pack(">BI", 0, len(answer)) + answer if isinstance(answer, bytes) else b""
        headers = HEADERS.format(answer if isinstance(answer, int) else 0, "unknown service")
        return CommandResult(script="", exit_status=self._status, output=body, duration=0.0,
                             errors=(self._errors or headers).encode())  # fmt: skip


def condition(name: str, *, is_met: bool, reason: str = "", message: str = "") -> bytes:
    return encode({1: name, 2: int(is_met), 3: reason, 4: message})


def status(*conditions: bytes, configuration: str = "") -> bytes:
    joined = b"".join(encode({1: one}) for one in conditions)
    return encode({1: joined, 2: encode({1: "config", 2: configuration})})


@given(st.dictionaries(st.integers(1, 40), st.one_of(st.binary(), st.integers(0, 2**63)), max_size=6))
def test_decoding_reverses_encoding(fields: dict[int, bytes | int]) -> None:
    assert protobuf.decode(encode(fields)) == {number: [value] for number, value in fields.items()}


@given(st.binary())
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        protobuf.decode(data)
    except ValueError as error:
        assert str(error)


def test_fields_of_fixed_width_are_passed_over() -> None:
    message = b"\x09" + b"8" * 8 + b"\x15" + b"4" * 4 + b"\x18\x07"
    assert protobuf.decode(message) == {1: [b"8" * 8], 2: [b"4" * 4], 3: [7]}


def test_conditions_and_the_cgroup_driver_are_read() -> None:
    configuration = '{"containerd": {"defaultRuntimeName": "runc", "runtimes": {"runc": {"options": ' \
                    '{"SystemdCgroup": true}}}}}'  # fmt: skip
    answer = status(condition("RuntimeReady", is_met=True), configuration=configuration)
    shell = FakeRuntime({"runtime.v1.RuntimeService/Status": answer})
    found = runtime(shell).status()
    assert [str(one) for one in found.conditions] == ["RuntimeReady=true"]
    assert found.systemd_cgroups and not found.is_ready
    assert shell.requests == [b"\0\0\0\0\x02\x08\x01"]


def test_a_condition_that_is_not_met_has_its_reason() -> None:
    answer = status(condition("NetworkReady", is_met=False, reason="NetworkPluginNotReady",
                              message="Network plugin returns error: cni plugin not initialized"))
    (found,) = runtime(FakeRuntime({"Status": answer})).status().conditions
    assert str(found) == "NetworkReady=false: cni plugin not initialized"


def test_an_older_runtime_is_called_by_its_own_version() -> None:
    shell = FakeRuntime({"runtime.v1alpha2.RuntimeService/Status": status()})
    assert runtime(shell).status().conditions == () and len(shell.requests) == 2


def test_containers_and_sandboxes_are_read() -> None:
    labels = encode({1: "io.kubernetes.pod.name", 2: "pod-node"})
    container = encode({1: "c1", 2: "s1", 3: encode({1: "name", 2: 3}), 6: 1, 8: labels})
    sandbox = encode({1: "s1", 2: encode({1: "pod-node"}), 3: 0})
    shell = FakeRuntime({"ListContainers": encode({1: container}), "ListPodSandbox": encode({1: sandbox})})
    (found,) = runtime(shell).containers("pod")
    assert (found.id, found.sandbox, found.attempt, found.pod) == ("c1", "s1", 3, "pod-node")
    assert found.state is ContainerState.RUNNING
    assert [(one.id, one.pod, one.is_ready) for one in runtime(shell).sandboxes("pod")] == [("s1", "pod-node", True)]


@pytest.mark.parametrize(("version", "shown"), [
    ("1.7.24", "1.7.24"), ("1.7.24~ds1", "1.7.24"), ("1.7.0-rc.1", "1.7.0-rc.1"), ("2.0.0+unknown", "2.0.0+unknown"),
])  # fmt: skip
def test_the_version_is_written_as_a_kubelet_writes_it(version: str, shown: str) -> None:
    shell = FakeRuntime({"Version": encode({1: "0.1.0", 2: "containerd", 3: version, 4: "v1"})})
    assert runtime(shell).version() == f"containerd://{shown}"


def test_images_and_their_directories_are_read() -> None:
    place = encode({2: encode({1: "/var/lib/containerd/x"})})
    shell = FakeRuntime({"ListImages": encode({1: encode({2: "b:1"})}) + encode({1: encode({2: "a:1"})}),
                         "ImageFsInfo": encode({1: place})})
    assert runtime(shell).images() == ["a:1", "b:1"]
    assert runtime(shell).image_directories() == ["/var/lib/containerd/x"]


def test_a_socket_without_a_listener_is_no_runtime() -> None:
    shell = FakeRuntime({}, status=7, errors="curl: (7) Failed to connect to localhost port 80\n")
    with pytest.raises(Unavailable, match=r"no CRI at /run/containerd/containerd.sock: Failed to connect"):
        runtime(shell).status()


def test_a_runtime_without_the_service_is_none() -> None:
    with pytest.raises(Unavailable, match="unknown service"):
        runtime(FakeRuntime({"Status": 12})).status()


@pytest.mark.parametrize("status", [127, 2])
def test_without_a_client_nothing_is_judged(status: int) -> None:
    with pytest.raises(NotJudged, match="curl"):
        runtime(FakeRuntime({}, status=status, errors="curl: option --http2-prior-knowledge: unsupported")).status()
