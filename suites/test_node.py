"""The machine is a node of a cluster: it joins by its user-data, runs pods, and gets over what it loses."""

from __future__ import annotations

from lifsea_testbed.cluster.objects import InterruptedNode, JoinedNode, PodRun
from lifsea_testbed.perf.metric import Measure
from lifsea_testbed.plugin.items import claim

_LEFT_TO_THE_KERNEL = 0.95


@claim("node-ready")
def test_the_machine_becomes_a_ready_node(joined: JoinedNode, measure: Measure) -> None:
    """It registered by itself, and the API server calls it Ready."""
    measure("node-ready", joined.seconds, unit="s", better="lower",
            definition="From power-on until the API server calls the node Ready; it joined at its first boot.")
    assert joined.node.is_ready
    assert joined.node.why_not == ""


@claim("node-ready")
def test_the_node_has_what_the_instance_has(joined: JoinedNode) -> None:
    """Its capacity is the instance type's processors, and the memory that the kernel does not keep for itself."""
    assert joined.node.processors == joined.machine.instance.type.cpus
    given = joined.machine.fidelity.memory
    assert given * _LEFT_TO_THE_KERNEL < joined.node.memory / 1024 <= given


@claim("node-ready")
def test_the_node_says_what_it_runs(joined: JoinedNode) -> None:
    """Operating system, kernel, container runtime and kubelet are those of the machine."""
    assert joined.reported == joined.runs


@claim("node-ready")
def test_the_checks_of_the_kubelet_pass(joined: JoinedNode) -> None:
    """Asked by the API server, each part of healthz answers ok: that it listens, logs, and looks after its pods."""
    assert joined.checks == dict.fromkeys(("ping", "log", "syncloop"), "ok")


@claim("node-ready")
def test_the_node_can_be_told_by_its_labels(joined: JoinedNode) -> None:
    """Name, operating system, architecture and instance type are among them."""
    assert {name: joined.node.labels.get(name) for name in joined.labels} == joined.labels


@claim("pod-runs")
def test_a_pod_runs_on_the_node(ran: PodRun, measure: Measure) -> None:
    """Put there by the node's name, it runs there."""
    measure("pod-running", ran.seconds, unit="s", better="lower",
            definition="From the creation of a pod until the API server says that it runs; its image is on board.")
    assert (ran.pod.phase, ran.pod.node) == ("Running", ran.node)


@claim("pod-runs")
def test_the_network_of_pods_leads_outside(ran: PodRun) -> None:
    """From its log, read through the API server: it asked the metadata service for the instance, and got its name."""
    assert ran.answer == ran.machine.instance.id


@claim("node-ready")
def test_without_the_api_server_the_node_is_not_ready(interrupted: InterruptedNode) -> None:
    """The cluster notices that it is silent, and that it is back."""
    assert not interrupted.ready_while_cut
    assert interrupted.ready_after_cut


@claim("pod-runs")
def test_a_pod_outlives_the_absence_of_the_api_server(interrupted: InterruptedNode) -> None:
    """The same container runs while the node is on its own, and after."""
    assert interrupted.kept_while_cut
    assert interrupted.kept_after_cut


@claim("node-ready")
def test_without_its_kubelet_the_node_is_not_ready(interrupted: InterruptedNode) -> None:
    """The cluster notices that it stopped, and that it runs again."""
    assert not interrupted.ready_while_stopped
    assert interrupted.ready_after_stop


@claim("pod-runs")
def test_a_deleted_pod_is_gone(interrupted: InterruptedNode) -> None:
    """Nothing is left of it, neither in the API nor on the node."""
    assert interrupted.left == []
