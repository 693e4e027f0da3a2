"""containerd and the kubelet: how ready they are."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest.network import http_get
from lifsea_testbed.support.protocols import Shell

#: KubeletHealthzPort of kubeadm.
HEALTHZ = "http://127.0.0.1:10248/healthz"
_STARTING = 60.0
_PROBE = "/.lifsea-testbed"


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


def escaped_writes(shell: Shell, escape: str, directories: Iterable[str]) -> list[str]:
    """Tries to make a file in the host's directories from inside a container, and returns those where that went well.

    Raises:
        NotJudged: there is no way to start such a container, or it did not start.
    """
    paths = {f"/host{directory}".rstrip("/"): directory for directory in directories}
    attempt = f'''for place in {shlex.join(paths)}; do
        (true >"$place{_PROBE}") 2>/dev/null && rm "$place{_PROBE}" && echo "$place"
    done; echo tried'''
    if not escape:
        raise NotJudged("the profile does not know how to start a privileged container")
    said = shell.run(f"{escape} {shlex.quote(attempt)}", check=False, within=_STARTING)
    if "tried" not in said.lines:
        raise NotJudged(f"the privileged container did not start: {(said.stderr.splitlines() or [''])[-1]}")
    return [paths[line] for line in said.lines if line in paths]
