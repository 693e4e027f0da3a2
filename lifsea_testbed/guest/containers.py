"""containerd and the kubelet: how ready they are."""

from __future__ import annotations

from lifsea_testbed.guest.network import http_get
from lifsea_testbed.guest.shell import Shell

#: KubeletHealthzPort of kubeadm.
HEALTHZ = "http://127.0.0.1:10248/healthz"


def containerd_version(shell: Shell) -> str | None:
    """Returns the version of the containerd that answers on its socket, or nothing if none does."""
    answer = shell.run("ctr version", check=False)
    versions = [line.split()[-1] for line in answer.lines if line.strip().startswith("Version:")]
    return versions[-1] if answer.ok and versions else None


def cri_state(shell: Shell) -> str:
    """Returns the state of containerd's CRI plugin as containerd reports it: ok, error, skip, or missing."""
    rows = [line.split() for line in shell.run("ctr plugins ls", check=False).lines]
    return next((row[-1] for row in rows if len(row) >= 3 and "cri" in row[1:2]), "missing")


def kubelet_health(shell: Shell) -> str | None:
    """Returns what the kubelet's healthz endpoint answers, or nothing if it does not."""
    return http_get(shell, HEALTHZ)
