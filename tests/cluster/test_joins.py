"""Machines join, again and again and several at once; one that cannot join fails with the reason."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.cluster import lifecycle, rollout
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.guest.readiness import NotReady
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import MachinePool
from tests.support import real

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
IN_A_ROW, AT_ONCE = 50, 4


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachinePool]:
    with real.pool(tmp_path_factory.mktemp("reports")) as restorer:
        yield restorer


@pytest.fixture(scope="module")
def factory(restorer: MachinePool) -> MachineFactory:
    return restorer.factory


@pytest.fixture
def cluster(factory: MachineFactory, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(factory.profile, real.control_plane(), records=tmp_path) as cluster:
        yield cluster


def test_fifty_joins_in_a_row_are_fifty_ready_nodes(restorer: MachinePool, cluster: Cluster) -> None:
    ready = []
    for number in range(IN_A_ROW):
        with restorer.restored(f"join-{number + 1}") as machine:
            member = cluster.join(machine)
            ready.append(lifecycle.await_ready(member, restorer.factory.profile).is_ready)
        cluster.api.delete_node(member.name)
    assert ready == [True] * IN_A_ROW


def test_machines_that_join_at_once_are_all_ready(factory: MachineFactory, cluster: Cluster) -> None:
    memory = factory.memory_for(AT_ONCE)
    with rollout.joined_fleet(cluster, factory.profile, factory.create, AT_ONCE, memory=memory) as joined:
        assert sorted(node.name for node in cluster.api.nodes() if node.is_ready) == sorted(
            member.name for member in joined.members)  # fmt: skip
        assert 0 < joined.share(0.5) <= joined.share(0.9)


def test_a_certificate_that_expired_is_why_a_node_is_not_ready(factory: MachineFactory, cluster: Cluster) -> None:
    members: list[Member] = []
    impatient = factory.profile.cluster.model_copy(update={"ready_within": 6.0})
    profile = factory.profile.model_copy(update={"cluster": impatient})
    def expect(machine: Machine) -> None:
        members.append(cluster.expect(machine, lifetime=datetime.timedelta(hours=-1)))

    expected = r"^node not ready: the certificate in \S+kubelet.conf expired on 2"
    with factory.create(MachineSpec(name="expired", prepare=expect)), pytest.raises(NotReady, match=expected) as caught:
        lifecycle.await_ready(members[0], profile)
    assert "--- kubelet.service" in caught.value.evidence
