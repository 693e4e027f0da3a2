"""The kubelet: its health, its version, its settings, and the static pods that it runs."""

from __future__ import annotations

import json
import re
import shlex

from lifsea_testbed.guest.network import GuestNetwork
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.protocols import Shell

KUBELET, CONTAINERD = "kubelet.service", "containerd.service"
#: KubeletHealthzPort of kubeadm.
HEALTHZ = "http://127.0.0.1:10248/healthz"
_DRIVER = re.compile(r"(?m)^\s*cgroupDriver:\s*[\"']?(\w+)")
_OPTIONS = """
pid=$(systemctl show --property=MainPID --value {unit})
tr '\\0' '\\n' </proc/$pid/cmdline 2>/dev/null || systemctl show --property=ExecStart {unit} | tr ' ' '\\n'
"""


class Kubelet:
    """The kubelet of one machine, by the paths of the profile."""

    def __init__(self, shell: Shell, settings: ClusterSection) -> None:
        self._shell = shell
        self._settings = settings

    def health(self) -> str | None:
        """Returns the body that the healthz endpoint answers with, or nothing if it does not."""
        return GuestNetwork(self._shell).http_get(HEALTHZ)

    def version(self) -> str:
        """Returns the version, in the form that a node object has it."""
        return (self._shell.run(["kubelet", "--version"]).stdout.split() or [""])[-1]

    def cgroup_driver(self) -> str:
        """Returns the cgroup driver: from the command line, else from the configuration, else the default."""
        options = self._shell.run(_OPTIONS.format(unit=KUBELET), check=False).lines
        named = [option.partition("=")[2] for option in options if option.startswith("--cgroup-driver=")]
        files = [option.partition("=")[2] for option in options if option.startswith("--config=")]
        text = self._shell.run(["cat", *files], check=False).stdout if files else ""
        return (named or _DRIVER.findall(text) or ["cgroupfs"])[-1]

    def put_static_pod(self, name: str) -> None:
        """Writes the manifest of a static pod with one container, made of the image that each sandbox is made of."""
        container = {"name": name, "image": self._settings.pause, "imagePullPolicy": "Never"}
        manifest = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                               "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}})  # fmt: skip
        directory = shlex.quote(self._settings.manifests)
        self._shell.run(f"mkdir -p {directory} && cat >{directory}/{name}.yaml", input=manifest.encode())
