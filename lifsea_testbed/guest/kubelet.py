"""The kubelet: its health, its version, its settings, and the static pods that it runs."""

from __future__ import annotations

import json
import re
import shlex

from lifsea_testbed.guest import kernel_files
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.network import GuestNetwork
from lifsea_testbed.profiles.profile import ClusterSection
from lifsea_testbed.support.protocols import Shell

KUBELET, CONTAINERD = "kubelet.service", "containerd.service"
#: KubeletHealthzPort of kubeadm.
PORT = 10248
HEALTHZ = f"http://127.0.0.1:{PORT}/healthz"
_DRIVER = re.compile(r"(?m)^[ \t]*cgroupDriver:[ \t]*[\"']?(\w+)")
# The processes that hold a socket that listens at that port: for each its name and its control groups (proc(5)).
_LISTENING = f"{kernel_files.SHOW}port={PORT:04X}" + r"""
for table in tcp tcp6; do show /proc/net/$table; done | while read -r _ local _ state _ _ _ _ _ inode _; do
    case $local in *:$port) [ "$state" = 0A ] || continue;; *) continue;; esac
    owners=$(find /proc/[0-9]*/fd -lname "socket:\\[$inode\\]" 2>/dev/null)
    [ -n "$owners" ] || echo "kernel -"
    for owner in $owners; do
        owner=${owner%/fd/*}
        IFS= read -r name <$owner/comm
        groups=$(show $owner/cgroup)
        echo "$name" $groups
    done
done
:
"""
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

    def imposters(self) -> list[str]:
        """Returns the programs that listen at the port of healthz and are no processes of the kubelet's service.

        By the kernel's tables of sockets and of control groups; `kernel` stands for a socket that no process holds.
        """
        answer = self._shell.run(_LISTENING)
        with readable(answer, expected="the name of a program and its control group on each line"):
            rows = [line.partition(" ") for line in answer.lines]
            return sorted({name for name, _, group in rows if f"/{KUBELET}" not in group})

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
