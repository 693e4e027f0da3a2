"""Why a machine is no Ready node, or a pod does not run on it: in one line, with what the machine and the API say."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence

from lifsea_testbed.cluster import authority
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.cluster import Member
from lifsea_testbed.guest.kubelet import KUBELET
from lifsea_testbed.profiles.profile import Profile

#: Clocks that differ by more than this (seconds) are not one time: certificates and heartbeats are judged by it.
MOST_SKEW = 60.0
_ABOUT_THE_API = r"(?i)x509|unauthorized|certificate|register|api ?server|lookup|connection refused|node \""


def is_ready(member: Member) -> bool:
    """Whether the machine is a Ready node by what it reported since it was booted, and nothing speaks against it."""
    node = member.node
    return node is not None and node.is_ready and not node.why_not and node.boot == member.machine.boot_id


def node_trouble(member: Member, profile: Profile) -> str:
    """Returns why the machine is no Ready node; empty if it is one."""
    node = member.node
    if is_ready(member):
        return ""
    reasons = [clock_trouble(member), certificate_trouble(member, profile)]
    silent = "the kubelet has reported nothing since the machine was booted"
    registered = "the kubelet has not registered the node" if node is None else node.why_not or silent
    complaint = member.machine.guest.services.last_error(KUBELET, _ABOUT_THE_API)
    return "; ".join(filter(None, [*reasons, ": ".join(filter(None, [registered, complaint]))]))


def clock_trouble(member: Member) -> str:
    """Returns by how much the machine's clock is wrong; empty if it is not."""
    ahead = member.machine.guest.clock.ahead()
    if abs(ahead) <= MOST_SKEW:
        return ""
    return f"its clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"


def certificate_trouble(member: Member, profile: Profile) -> str:
    """Returns what is wrong with the certificate that the kubelet shows; empty if that cannot be told."""
    place = profile.cluster.kubeconfig
    try:
        users = json.loads(member.machine.guest.files.read(place) or "")["users"]
        end = authority.expiry(base64.b64decode(users[0]["user"]["client-certificate-data"]))
    except (ValueError, LookupError, TypeError):
        return ""
    return f"the certificate in {place} expired on {end:%Y-%m-%d at %H:%M}" \
        if end < datetime.datetime.now(datetime.UTC) else ""  # fmt: skip


def pod_trouble(api: Api, name: str, *, phases: Sequence[str] = ("Running",)) -> str:
    """Returns why a pod does not run; empty if it does."""
    pod = api.pod(name)
    if pod is None:
        return "the API has no such pod any more"
    if pod.phase in phases:
        return ""
    warnings = [event for event in api.events(name) if not event.startswith(("Scheduled", "Pulled", "Created"))]
    return "; ".join(filter(None, [f"the pod is {pod.phase}", pod.why, *warnings[-1:]]))
