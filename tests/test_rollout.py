"""The cluster manages the OS: nodes are upgraded one after the other, and a failure stays with the node that it met."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.bench import Bench
from lifsea_testbed.cluster import life
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.joins import Joins, joined
from lifsea_testbed.cluster.rollout import roll_out
from lifsea_testbed.guest.kubelet import KUBELET
from lifsea_testbed.upgrade.offer import Offer, make_up
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.way import way
from tests import real

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
NODES = 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with real.bench(tmp_path_factory.mktemp("reports")) as bench:
        yield bench


@pytest.fixture
def cluster(bench: Bench, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(bench.profile, real.control_plane(), bench.accelerator.confinement, records=tmp_path) as cluster:
        yield cluster


def test_a_rolling_upgrade_keeps_two_of_three_ready_and_stops_where_it_fails(bench: Bench, cluster: Cluster,
                                                                             tmp_path: Path) -> None:
    profile = bench.profile
    with joined(cluster, profile, bench.machine, NODES, memory=bench.memory_for(NODES)) as joins:
        first, second = _offers(joins, tmp_path)
        before = way(joins.members[0].machine, profile.upgrades).running()
        for number, member in enumerate(joins.members):
            life.start_pod(cluster, member, profile, f"app-{number}")
        rolled = roll_out(cluster, joins.members, profile, first)
        names = [member.name for member in joins.members]
        assert rolled.stopped_by == "" and rolled.upgraded == names
        assert rolled.running == dict.fromkeys(names, first.commit) and first.commit != before
        assert rolled.fewest == NODES - 1 and all(rolled.drained.values())
        impatient = profile.cluster.model_copy(update={"ready_within": 10.0})
        again = roll_out(cluster, joins.members, profile.model_copy(update={"cluster": impatient}), second,
                         upset=lambda member: _upset(member, names[1]))
        assert again.upgraded == names[:1] and again.stopped_by.startswith(f"{names[1]}: node not ready")
        assert again.running == {names[0]: second.commit, names[1]: first.commit, names[2]: first.commit}
        assert again.fewest == NODES - 1 and names[2] not in again.drained
        assert [node.name for node in cluster.api.nodes() if not node.is_ready or node.is_cordoned] == []


def _offers(joins: Joins, directory: Path) -> list[Offer]:
    """Two commits above the one that runs, offered to every node."""
    (directory / "offer").mkdir()
    repository = Repository(directory / "offer")
    urls = [member.machine.serve(repository) for member in joins.members]
    return make_up(joins.members[0].machine, directory / "offer", urls[0], 2)


def _upset(member: Member, name: str) -> None:
    """Has the kubelet of one node not run until the next boot."""
    if member.name == name:
        member.machine.run(f"systemctl mask --runtime --now {KUBELET}")
