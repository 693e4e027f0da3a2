"""The parts of a node: its container runtime, its kubelet, and the pods on it."""

from __future__ import annotations

import json
import shlex

from lifsea_testbed.guest import cri, kubelet
from lifsea_testbed.guest.cri import Container, Runtime, Sandbox
from lifsea_testbed.guest.kubelet import Service
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.protocols import Shell

#: How long a service may take to stop and start on real hardware (seconds).
_RESTARTING = 60.0
_PREPARING = 60.0


class Kubernetes:
    """Asks and changes what runs pods on one machine."""

    def __init__(self, shell: Shell, settings: ClusterSection) -> None:
        self._shell = shell
        self._settings = settings

    # The container runtime

    def runtime(self) -> Runtime:
        """Returns what the container runtime says of itself.

        Raises:
            Unavailable: it does not answer.
        """
        return cri.runtime(self._shell, self._settings.socket)

    def runtime_version(self) -> str:
        """Returns the container runtime's name and version, as a node has it."""
        return cri.version(self._shell, self._settings.socket)

    def kubelet_version(self) -> str:
        """Returns the kubelet's version, as a node has it."""
        return (self._shell.run(["kubelet", "--version"]).stdout.split() or [""])[-1]

    def sandboxes(self, pod: str) -> list[Sandbox]:
        """Returns the sandboxes of a pod; the name of a static one goes on with that of its node."""
        return [one for one in cri.sandboxes(self._shell, self._settings.socket) if _is(one.pod, pod)]

    def containers(self, pod: str) -> list[Container]:
        """Returns the containers of a pod, the latest first."""
        found = cri.containers(self._shell, self._settings.socket)
        return sorted((one for one in found if _is(one.pod, pod)), key=lambda one: -one.attempt)

    def images_on_board(self) -> list[str]:
        """Returns the names of the images that pods can be made of."""
        return cri.images(self._shell, self._settings.socket)

    def image_directories(self) -> list[str]:
        """Returns where images are kept."""
        return cri.image_directories(self._shell, self._settings.socket)

    def runtime_sockets(self) -> list[str]:
        """Returns where containerd listens."""
        return kubelet.runtime_sockets(self._shell)

    def kill(self, container: Container) -> None:
        """Kills a container's process, as a crash does."""
        self._shell.run(f"ctr --namespace k8s.io tasks kill --signal SIGKILL {container.id}")

    def prepare_workload(self) -> None:
        """Makes the image of the profile's workload known to the runtime."""
        if self._settings.prepare:
            self._shell.run(self._settings.prepare, within=_PREPARING)

    # Services

    def service(self, name: str) -> Service:
        """Returns the state of a service."""
        return kubelet.service(self._shell, name)

    def journal_of(self, unit: str) -> str:
        """Returns the end of a unit's journal."""
        return kubelet.journal(self._shell, unit)

    def complaint(self, unit: str, about: str = "") -> str:
        """Returns the last error in a unit's journal that matches a regular expression."""
        return kubelet.complaint(self._shell, unit, about)

    def restart(self, unit: str) -> None:
        """Stops a service and starts it."""
        self._shell.run(["systemctl", "restart", unit], within=_RESTARTING)

    def stop(self, unit: str) -> None:
        """Stops a service."""
        self._shell.run(["systemctl", "stop", unit], within=_RESTARTING)

    def crash(self, unit: str) -> None:
        """Kills the main process of a service."""
        self._shell.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", unit])

    # Settings

    def cgroup_driver(self) -> str:
        """Returns the kubelet's cgroup driver."""
        return kubelet.cgroup_driver(self._shell)

    def cgroup_version(self) -> int:
        """Returns the version of control groups."""
        return kubelet.cgroup_version(self._shell)

    def swaps(self) -> list[str]:
        """Returns what is swapped to."""
        return kubelet.swaps(self._shell)

    def full_var(self) -> str:
        """Returns how full /var is, if it is."""
        return kubelet.full_var(self._shell)

    def files_in(self, directory: str) -> list[str]:
        """Returns the names in a directory."""
        return kubelet.files_in(self._shell, directory)

    # Static pods

    def put_static_pod(self, name: str) -> None:
        """Has the kubelet run a pod of the image that each sandbox is made of, by a manifest of its own."""
        container = {"name": name, "image": self._settings.pause, "imagePullPolicy": "Never"}
        manifest = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                               "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}})  # fmt: skip
        directory = shlex.quote(self._settings.manifests)
        self._shell.run(f"mkdir -p {directory} && cat >{directory}/{name}.yaml", input=manifest.encode())


def _is(found: str, pod: str) -> bool:
    """A static pod has the node's name after its own."""
    return found == pod or found.startswith(f"{pod}-")
