"""The machine is a node of a cluster: it joins by its user-data, runs pods, and recovers from interruptions."""

from __future__ import annotations

from lifsea_testbed import InterruptedNode, JoinedNode, Measure, PodRun, claim

_LEFT_TO_THE_KERNEL = 0.95


@claim("node-ready")
def test_the_machine_becomes_a_ready_node(joined: JoinedNode, measure: Measure) -> None:
    """It registered by itself, and the API server reports it as Ready."""
    measure("node-ready", joined.seconds, unit="s", better="lower",
            definition="From power-on until the API server calls the node Ready; it joined at its first boot.")
    assert joined.node.is_ready
    assert joined.node.why_not == ""


@claim("node-ready")
def test_the_node_has_what_the_instance_has(joined: JoinedNode) -> None:
    """Its capacity is the instance type's processors, and the memory that the kernel does not reserve."""
    assert joined.node.processors == joined.machine.instance.type.cpus
    given = joined.machine.fidelity.memory
    assert given * _LEFT_TO_THE_KERNEL < joined.node.memory / 1024 <= given


@claim("node-ready")
def test_the_node_says_what_it_runs(joined: JoinedNode) -> None:
    """Operating system, kernel, container runtime and kubelet are those of the machine."""
    assert joined.reported == joined.runs


@claim("node-ready")
def test_the_checks_of_the_kubelet_pass(joined: JoinedNode) -> None:
    """Through the API server, each check of healthz is ok: it listens, logs, and synchronises its pods."""
    assert joined.checks == dict.fromkeys(("ping", "log", "syncloop"), "ok")


@claim("node-ready")
def test_the_node_can_be_told_by_its_labels(joined: JoinedNode) -> None:
    """Name, operating system, architecture and instance type are among them."""
    assert {name: joined.node.labels.get(name) for name in joined.labels} == joined.labels


@claim("pod-runs")
def test_a_pod_runs_on_the_node(ran: PodRun, measure: Measure) -> None:
    """A pod that is assigned to the node by name runs there."""
    measure("pod-running", ran.seconds, unit="s", better="lower",
            definition="From the creation of a pod until the API server says that it runs; its image is on board.")
    assert (ran.pod.phase, ran.pod.node) == ("Running", ran.node)


@claim("pod-runs")
def test_the_network_of_pods_leads_outside(ran: PodRun) -> None:
    """By its log, read through the API server, the pod got the instance's identifier from the metadata service."""
    assert ran.answer == ran.machine.instance.id


@claim("node-ready")
def test_without_the_api_server_the_node_is_not_ready(interrupted: InterruptedNode) -> None:
    """The API server reports the silent node as not Ready, and as Ready once it is back."""
    assert not interrupted.ready_while_cut
    assert interrupted.ready_after_cut


@claim("pod-runs")
def test_a_pod_outlives_the_absence_of_the_api_server(interrupted: InterruptedNode) -> None:
    """The same container runs while the node is cut off, and after."""
    assert interrupted.kept_while_cut
    assert interrupted.kept_after_cut


@claim("node-ready")
def test_without_its_kubelet_the_node_is_not_ready(interrupted: InterruptedNode) -> None:
    """The API server reports the node as not Ready while the kubelet is stopped, and as Ready once it runs again."""
    assert not interrupted.ready_while_stopped
    assert interrupted.ready_after_stop


@claim("pod-runs")
def test_a_deleted_pod_is_gone(interrupted: InterruptedNode) -> None:
    """Nothing of it is left, in the API or on the node."""
    assert interrupted.left == []
