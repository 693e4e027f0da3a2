"""A cluster that machines join: new instances by their user-data, or running ones."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import Self

from lifsea_testbed.cluster import control_plane
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.authority import ClientIdentity
from lifsea_testbed.cluster.control_plane import ControlPlane
from lifsea_testbed.cluster.objects import Node
from lifsea_testbed.ecs.instance import CLUSTER_ADDRESS, CLUSTER_PORT, PRIVATE_ADDRESS, Instance
from lifsea_testbed.ecs.relay import Relay, connect_to
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.steps import step

#: The port at which a kubelet serves logs to the API server.
_KUBELET_PORT = 10250
#: How long a joining script may take on real hardware (seconds).
_JOINING = 60.0
_TYPE_LABEL = "node.kubernetes.io/instance-type"


class Member:
    """A machine that joins the cluster; `relay` carries its connection to the API server and can cut it."""

    def __init__(self, machine: Machine, relay: Relay, api: Api) -> None:
        self.machine = machine
        self.relay = relay
        self.name = node_name(machine.instance)
        self._api = api

    @property
    def node(self) -> Node | None:
        """The node of that name in the API; None before it has registered."""
        return self._api.node(self.name)

    @property
    def labels(self) -> dict[str, str]:
        """The labels that a node of its type must have."""
        return {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                _TYPE_LABEL: self.machine.instance.type.name}  # fmt: skip


class Cluster:
    """One control plane and the machines that join it; all of it ends with the context.

    `programs` is the directory of the control plane's programs; the ends of their logs are written to `records`.
    """

    def __init__(self, profile: Profile, programs: Path | None, *, records: Path) -> None:
        if not profile.cluster.join:
            raise NotJudged("the profile has no script by which a machine joins a cluster (cluster.join)",
                            Reason.PROFILE)
        self.members: list[Member] = []
        self._profile = profile
        self.plane = ControlPlane(control_plane.find(programs), records=records)
        certificate, key = self.plane.admin
        self.api = Api(f"https://{self.plane.address}:{CLUSTER_PORT}", authority=self.plane.certificate,
                       certificate=certificate, key=key, require=self.require)  # fmt: skip

    def __enter__(self) -> Self:
        """Starts the control plane.

        Raises:
            HostError: it was not ready in time, or a program of it ended; their logs are in the records.
        """
        self.plane.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the control plane."""
        self.plane.__exit__()

    def require(self) -> None:
        """Makes sure that every program of the control plane runs.

        Raises:
            LaunchError: one has ended.
        """
        self.plane.require()

    def expect(self, machine: Machine, *, lifetime: datetime.timedelta | None = None) -> Member:
        """Adds the joining script to the user-data of a machine that is off: it joins at its first boot.

        `lifetime` is that of its certificate; with a negative one it has expired.
        """
        member = self._connect(machine)
        machine.append_user_data(self._script(machine.instance, lifetime).encode())
        return member

    @step("join")
    def join(self, machine: Machine) -> Member:
        """Runs the joining script on a machine that is up.

        Raises:
            CommandFailed: the script of the profile (cluster.join) ended with a status other than 0.
        """
        member = self._connect(machine)
        machine.run(self._script(machine.instance, None), within=_JOINING)
        return member

    def _connect(self, machine: Machine) -> Member:
        relay = machine.network.relay_api_server(connect_to((self.plane.address, CLUSTER_PORT)))
        member = Member(machine, relay, self.api)
        self.plane.tunnel.announce(member.name, machine.network.forward_port(_KUBELET_PORT))
        self.members.append(member)
        return member

    def _script(self, instance: Instance, lifetime: datetime.timedelta | None) -> str:
        name = node_name(instance)
        identity = self._identity(name, lifetime)
        server = f"https://{CLUSTER_ADDRESS}:{CLUSTER_PORT}"
        settings = {
            "NODE": name, "ADDRESS": PRIVATE_ADDRESS, "KUBECONFIG": self.plane.kubeconfig(name, server, identity),
            "AUTHORITY": self.plane.authority.certificate.decode(), "LABELS": f"{_TYPE_LABEL}={instance.type.name}",
        }  # fmt: skip
        exported = "\n".join(f"export CLUSTER_{key}={shlex.quote(value)}" for key, value in settings.items())
        return f"\n(\n{exported}\n{self._profile.cluster.join}\n)\n"

    def _identity(self, name: str, lifetime: datetime.timedelta | None) -> ClientIdentity:
        """The user and group by which the API server recognises a kubelet (Kubernetes, "Using Node Authorization")."""
        issue = self.plane.authority.issue
        user, group = f"system:node:{name}", "system:nodes"
        return issue(user, group=group) if lifetime is None else issue(user, group=group, lifetime=lifetime)


def node_name(instance: Instance) -> str:
    """Returns the name under which a kubelet registers: its host name in lower case."""
    return instance.host_name.lower()
