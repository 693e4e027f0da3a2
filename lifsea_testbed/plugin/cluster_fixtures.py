"""The fixtures of what runs pods: a static pod, a cluster, a node of it. The plugin registers them for a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lifsea_testbed.cluster.cluster import Cluster, Member
    from lifsea_testbed.cluster.objects import InterruptedNode, JoinedNode, PodRun
    from lifsea_testbed.machine.factory import Bench
    from lifsea_testbed.machine.pool import Restorer
    from lifsea_testbed.scenarios.static_pod import StaticPod


@pytest.fixture(scope="session")
def static_pod(bench: Bench, restorer: Restorer) -> StaticPod:
    """What was seen of a static pod that was led through its life; its machine is off again."""
    from lifsea_testbed.scenarios import static_pod

    with restorer.machine("static-pod-machine") as machine:
        machine.wait_until_ready()
        return static_pod.run(machine, bench.profile)


@pytest.fixture(scope="session")
def cluster(bench: Bench, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane of its own: `cluster.expect(machine)` has a machine that is off join it at its first boot."""
    from lifsea_testbed.errors import NotJudged

    try:
        from lifsea_testbed.cluster.cluster import Cluster
    except ImportError as error:
        raise NotJudged(f"a cluster needs more packages: {error} (hint: pip install 'lifsea-testbed[cluster]')") \
            from None
    programs = pytestconfig.option.control_plane
    with Cluster(bench.profile, Path(programs).absolute() if programs else None, bench.accelerator.confinement,
                 records=bench.records / "cluster") as cluster:  # fmt: skip
        yield cluster


@pytest.fixture(scope="session")
def cluster_member(bench: Bench, cluster: Cluster) -> Iterator[tuple[Member, JoinedNode]]:
    """A new machine that its user-data made a Ready node of the cluster, and what was seen of it."""
    from lifsea_testbed.cluster import lifecycle

    with lifecycle.joined_node(cluster, bench.profile, bench.machine) as member:
        yield member


@pytest.fixture(scope="session")
def joined(cluster_member: tuple[Member, JoinedNode]) -> JoinedNode:
    """What was seen of a new machine that its user-data made a Ready node of the cluster."""
    return cluster_member[1]


@pytest.fixture(scope="session")
def ran(bench: Bench, cluster: Cluster, cluster_member: tuple[Member, JoinedNode]) -> PodRun:
    """What became of a pod that was put onto that node; it is being deleted."""
    from lifsea_testbed.cluster import lifecycle

    return lifecycle.run_pod(cluster, cluster_member[0], bench.profile)


@pytest.fixture(scope="session")
def interrupted(bench: Bench, cluster: Cluster, cluster_member: tuple[Member, JoinedNode],
                ran: PodRun) -> InterruptedNode:  # fmt: skip
    """What became of that node when it lost the API server, and when its kubelet stopped."""
    from lifsea_testbed.cluster import lifecycle

    return lifecycle.interrupt(cluster, cluster_member[0], bench.profile)
