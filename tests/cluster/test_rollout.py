"""A rolling upgrade: nodes are upgraded one after the other, and a failure stops at the node where it happened."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.cluster import lifecycle, rollout
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.rollout import JoinedFleet, joined_fleet, roll_out
from lifsea_testbed.guest.kubelet import KUBELET
from lifsea_testbed.guest.readiness import NotReady, ReadinessLevel
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.upgrade.offer import Offer, make_offers
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.tools import upgrade_tool
from tests.support import real

NODES = 3
OFFER = Offer(url="http://x/", branch="next", commit="2", version="2")


class FakeCluster:
    """Three nodes with a pod each, and a record of all operations on them."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.left = {"a": "app-a", "b": "app-b", "c": "app-c"}
        self.api = self
        self.members = [FakeMember(name, self.story) for name in self.left]

    def nodes(self) -> list[SimpleNamespace]:
        down = sum(member.is_down for member in self.members)
        return [SimpleNamespace(name=member.name, is_ready=True) for member in self.members][down:]

    def pods(self, node: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=self.left[node])] if node in self.left else []

    def evict(self, pod: str) -> None:
        self.story.append(f"evict {pod}")
        self.left = {node: other for node, other in self.left.items() if other != pod}

    def cordon(self, name: str, *, cordoned: bool = True) -> None:
        self.story.append(f"{'cordon' if cordoned else 'uncordon'} {name}")


class FakeMember:
    """A node that is upgraded at once, and is down while it boots."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name, self.story, self.machine = name, story, self
        self.runs, self.next, self.is_down, self.is_well = "1", "1", False, True

    def wait_until(self, condition: Callable[[], bool], what: str, *, within: float, every: float) -> bool:
        return condition()

    def reboot(self) -> None:
        self.is_down = True
        time.sleep(0.6)
        self.story.append(f"reboot {self.name}")
        self.runs, self.is_down = self.next, False

    def running(self) -> str:
        return self.runs

    def apply(self, offer: Offer) -> None:
        self.next = offer.commit

    def roll_back(self) -> None:
        self.next = "1"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    def await_ready(member: Any, profile: Any) -> None:
        if member.runs == "2" and not member.is_well:
            raise NotReady(ReadinessLevel.NODE, "the kubelet has not registered the node")

    monkeypatch.setattr(rollout, "upgrade_tool", lambda machine, section, tools: machine)
    monkeypatch.setattr(lifecycle, "await_ready", await_ready)
    return FakeCluster()


def test_node_after_node_is_drained_upgraded_and_uncordoned(fakes: FakeCluster) -> None:
    rolled = roll_out(cast(Cluster, fakes), cast(Any, fakes.members), profiles.load("reference"), OFFER)
    steps = ("cordon {}", "evict app-{}", "reboot {}", "uncordon {}")
    assert fakes.story == [step.format(name) for name in "abc" for step in steps]
    assert rolled.running == {"a": "2", "b": "2", "c": "2"} and rolled.stopped_by == ""
    assert rolled.upgraded == ["a", "b", "c"] and all(rolled.drained.values()) and rolled.fewest == 2


def test_a_node_that_is_not_ready_is_rolled_back_and_ends_the_rollout(fakes: FakeCluster) -> None:
    fakes.members[1].is_well = False
    rolled = roll_out(cast(Cluster, fakes), cast(Any, fakes.members), profiles.load("reference"), OFFER)
    assert rolled.stopped_by == "b: node not ready: the kubelet has not registered the node"
    assert rolled.running == {"a": "2", "b": "1", "c": "1"} and rolled.upgraded == ["a"]
    assert fakes.story[-2:] == ["reboot b", "uncordon b"] and "c" not in rolled.drained


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineFactory]:
    with real.bench(tmp_path_factory.mktemp("reports")) as factory:
        yield factory


@pytest.fixture
def cluster(factory: MachineFactory, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(factory.profile, real.control_plane(), records=tmp_path) as cluster:
        yield cluster


@pytest.mark.nightly
@pytest.mark.boots
def test_a_rolling_upgrade_keeps_two_of_three_ready_and_stops_where_it_fails(factory: MachineFactory, cluster: Cluster,
                                                                             tmp_path: Path) -> None:
    profile = factory.profile
    with joined_fleet(cluster, profile, factory.create, NODES, memory=factory.memory_for(NODES)) as joins:
        first, second = _offers(joins, tmp_path)
        before = upgrade_tool(joins.members[0].machine, profile.upgrades).running()
        for number, member in enumerate(joins.members):
            lifecycle.prepare_image(member, profile)
            lifecycle.start_pod(cluster, member, profile, f"app-{number}")
        rolled = roll_out(cluster, joins.members, profile, first)
        names = [member.name for member in joins.members]
        assert rolled.stopped_by == "" and rolled.upgraded == names
        assert rolled.running == dict.fromkeys(names, first.commit) and first.commit != before
        assert rolled.fewest == NODES - 1 and all(rolled.drained.values())
        impatient = profile.cluster.model_copy(update={"ready_within": 10.0})
        again = roll_out(cluster, joins.members, profile.model_copy(update={"cluster": impatient}), second,
                         within=lambda member: _upset(member, names[1]))
        assert again.upgraded == names[:1] and again.stopped_by.startswith(f"{names[1]}: kubelet not ready")
        assert again.running == {names[0]: second.commit, names[1]: first.commit, names[2]: first.commit}
        assert again.fewest == NODES - 1 and names[2] not in again.drained
        assert [node.name for node in cluster.api.nodes() if not node.is_ready or node.is_cordoned] == []


def _offers(joins: JoinedFleet, directory: Path) -> list[Offer]:
    """Two commits above the one that runs, offered to every node."""
    (directory / "offer").mkdir()
    repository = Repository(directory / "offer")
    urls = [member.machine.network.serve_mirror(repository) for member in joins.members]
    return make_offers(joins.members[0].machine, directory / "offer", urls[0], 2)


@contextlib.contextmanager
def _upset(member: Member, name: str) -> Iterator[None]:
    """Masks the kubelet of one node in the image deployed meanwhile, whose /etc is merged from the present one."""
    if member.name != name:
        yield
        return
    member.machine.run(f"systemctl mask {KUBELET}")
    yield
    member.machine.run(f"systemctl unmask {KUBELET}")


def test_an_api_that_never_answers_does_not_keep_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_STOPPING", 0.1)
    monkeypatch.setattr(rollout, "_EVERY", 0.0)
    asked, go = threading.Event(), threading.Event()

    def nodes() -> list[Any]:
        asked.set()
        go.wait(60.0)
        return []

    api: Any = SimpleNamespace(nodes=nodes)
    with rollout.NodeWatch(api) as watch:
        assert asked.wait(30.0)
    assert watch._thread.is_alive()
    go.set()
    watch._thread.join(30.0)
