"""The fixtures: machines, the results of scenarios, the profile, and the recorder of figures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lifsea_testbed.plugin import options
from lifsea_testbed.plugin.items import moment_of
from lifsea_testbed.plugin.ordering import LATE, MOMENTS

if TYPE_CHECKING:
    from lifsea_testbed.boottime.campaign import ColdBoots
    from lifsea_testbed.cluster.cluster import Cluster, Member
    from lifsea_testbed.cluster.objects import InterruptedNode, JoinedNode, PodRun
    from lifsea_testbed.disk.image import Image
    from lifsea_testbed.ecs.metadata_faults import MetadataFaults
    from lifsea_testbed.machine.factory import MachineFactory
    from lifsea_testbed.machine.fleet import Fleet
    from lifsea_testbed.machine.machine import Machine
    from lifsea_testbed.machine.pool import MachinePool
    from lifsea_testbed.perf.metric import Measure
    from lifsea_testbed.plugin.session import Session
    from lifsea_testbed.powercut.campaign import PowerCuts
    from lifsea_testbed.profiles.profile import Profile
    from lifsea_testbed.scenarios.basics import Rebooted, RolledBack, Twins, Upgraded
    from lifsea_testbed.scenarios.cross_check import CrossCheck, DiskCopies
    from lifsea_testbed.scenarios.first_boot import ClockCorrection, FirstBoot
    from lifsea_testbed.scenarios.outages import Outages
    from lifsea_testbed.scenarios.static_pod import StaticPod
    from lifsea_testbed.scenarios.upgrade_paths import FaultInjection, UpgradeChain

_SESSION = pytest.StashKey["Session"]()
_CLUSTER = pytest.StashKey["Cluster"]()


def bind(config: pytest.Config, session: Session) -> None:
    """Makes the fixtures of this process use that session."""
    config.stash[_SESSION] = session


def bound(config: pytest.Config) -> Session | None:
    """Returns the session of this process, if it has an image."""
    return config.stash.get(_SESSION, None)


def profile_of(config: pytest.Config) -> Profile:
    """Returns the profile of the run."""
    return _session(config).factory.profile


def _session(config: pytest.Config) -> Session:
    session = bound(config)
    if session is None:
        raise pytest.UsageError("the fixtures of lifsea_testbed need an image (hint: --image out.qcow2)")
    return session


def _cold(bench: MachineFactory, name: str) -> AbstractContextManager[Machine]:
    from lifsea_testbed.machine.factory import MachineSpec

    return bench.create(MachineSpec(name=name))


def _first_boot(bench: MachineFactory, name: str, faults: MetadataFaults) -> FirstBoot:
    from lifsea_testbed.machine.factory import MachineSpec
    from lifsea_testbed.scenarios import first_boot

    with bench.create(MachineSpec(name=name, faults=faults)) as machine:
        return first_boot.observe(machine)


# The run


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> MachineFactory:
    """The machine factory of this run: it has the image, the profile and the hardware, and makes machines."""
    return _session(pytestconfig).factory


@pytest.fixture(scope="session")
def restorer(pytestconfig: pytest.Config) -> MachinePool:
    """The machine pool of this run: machines shared, restored from a snapshot, or booted cold."""
    return _session(pytestconfig).pool


@pytest.fixture
def profile(pytestconfig: pytest.Config) -> Profile:
    """The profile: the promises of the OS under test."""
    return profile_of(pytestconfig)


@pytest.fixture(scope="session")
def next_image(bench: MachineFactory) -> Image:
    """The image to upgrade to; not judged without --next-image."""
    from lifsea_testbed.errors import NotJudged, Reason

    if bench.next_image is None:
        raise NotJudged("no image to upgrade to was given (--next-image)", Reason.OPTION)
    return bench.next_image


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Records figures: `measure("boot", 1.93, unit="s", better="lower")`."""
    from lifsea_testbed.plugin import figures

    return figures.measure_of(request.node)


# Machines


@pytest.fixture
def machine(bench: MachineFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A clean machine, up and ready, restored from a snapshot; the test may change it as it likes.

    With `@pytest.mark.shares_machine` it is one that all tests with that mark share, and that none of them changes.
    """
    from lifsea_testbed.plugin import figures

    pool = _session(request.config).pool
    shares = request.node.get_closest_marker("shares_machine")
    with pool.shared() if shares else pool.restored(request.node.nodeid) as machine:
        if not shares and machine.restored_in is not None:
            figures.measure_restore(request.node, machine.restored_in)
        yield machine


@pytest.fixture
def own_machine(bench: MachineFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of the test's own, booted cold, for tests that judge its first boot."""
    with _session(request.config).pool.cold(request.node.nodeid) as machine:
        yield machine


@pytest.fixture
def machines(bench: MachineFactory, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Fleet]]:
    """Makes fleets: `machines(3)` returns three machines, up and on a private network; they end with the test."""
    from lifsea_testbed.machine import fleet

    with fleet.FleetMaker(request.node.nodeid, bench) as make:
        yield make


@pytest.fixture(scope="session")
def booted(bench: MachineFactory, pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A machine that was booted cold in this run, shared by the tests that judge its boot."""
    with _session(pytestconfig).pool.cold("booted-machine") as machine:
        yield machine


@pytest.fixture(scope="session", params=MOMENTS)
def watched(request: pytest.FixtureRequest, booted: Machine, bench: MachineFactory) -> Machine:
    """The booted machine at two moments: a while after its boot, and late, at the end of the run.

    Before the late look, everything is started that the machine has planned for later (timers, paths, cron, at).
    """
    from lifsea_testbed.scenarios import basics

    boot = bench.profile.boot
    if request.param == LATE:
        return basics.bring_forward(booted, boot)
    return basics.watch(booted, boot.watched)


@pytest.fixture(scope="session")
def disk_copies(bench: MachineFactory) -> Iterator[DiskCopies]:
    """The copies of machines' disks, as far as tests have asked for them."""
    from lifsea_testbed.scenarios.cross_check import DiskCopies

    with DiskCopies(bench) as copies:
        yield copies


@pytest.fixture
def cross_check(disk_copies: DiskCopies, request: pytest.FixtureRequest) -> CrossCheck:
    """Compares a guest's answers with its disk: `cross_check(machine).files.setuid()` fails where they disagree."""
    from lifsea_testbed.scenarios.cross_check import CrossCheck

    return CrossCheck(disk_copies, moment_of(request.node))


# Scenarios


@pytest.fixture(scope="session")
def twins(booted: Machine, bench: MachineFactory) -> Iterator[Twins]:
    """The booted machine compared with another one of the same image: their contents and their identifiers."""
    from lifsea_testbed.scenarios import basics

    with _cold(bench, "twin-machine") as other:
        yield basics.compare(booted, other)


@pytest.fixture(scope="session")
def cold_boots(bench: MachineFactory, pytestconfig: pytest.Config) -> ColdBoots:
    """The observations of cold boots, each on a disk of its own."""
    from lifsea_testbed.boottime import campaign

    with _session(pytestconfig).host.exclusive("cold boots"):
        return campaign.cold_boots(bench, options.of(pytestconfig).boots)


@pytest.fixture(scope="session")
def rebooted(bench: MachineFactory) -> Rebooted:
    """The result of rebooting a machine once; it is off again."""
    from lifsea_testbed.scenarios import basics

    with _cold(bench, "rebooted-machine") as machine:
        return basics.reboot(machine)


@pytest.fixture(scope="session")
def late_metadata(bench: MachineFactory) -> FirstBoot:
    """The first boot of a machine whose metadata service comes late, fails at first and is slow; it is off again."""
    from lifsea_testbed.scenarios import first_boot

    return _first_boot(bench, "late-metadata-machine", first_boot.LATE)


@pytest.fixture(scope="session")
def hardened_metadata(bench: MachineFactory) -> FirstBoot:
    """The first boot of a machine whose metadata service requires a token of each request; it is off again."""
    from lifsea_testbed.scenarios import first_boot

    return _first_boot(bench, "hardened-metadata-machine", first_boot.HARDENED)


@pytest.fixture(scope="session")
def corrected_clock(bench: MachineFactory) -> ClockCorrection:
    """A machine whose clock was an hour off at power-on, and whose time servers answer; it is off again."""
    from lifsea_testbed.machine.factory import MachineSpec
    from lifsea_testbed.scenarios import first_boot

    spec = MachineSpec(name="wrong-clock-machine", clock_ahead=first_boot.CLOCK_ERROR, serves_time=True)
    with bench.create(spec) as machine:
        return first_boot.correct_clock(machine, bench.profile)


@pytest.fixture(scope="session")
def upgraded(bench: MachineFactory, next_image: Image, pytestconfig: pytest.Config,
             tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """A machine that was upgraded by the profile's tool and runs the next image."""
    from lifsea_testbed.scenarios import basics
    from lifsea_testbed.upgrade.tools import upgrade_tool

    with _cold(bench, "upgraded-machine") as machine:
        session = _session(pytestconfig)
        tool = upgrade_tool(machine, bench.profile.upgrades, session.extensions.upgrade_tools)
        offered = basics.offer(machine, next_image, tmp_path_factory.mktemp("next"))
        with session.host.exclusive("an upgrade"):
            upgraded = basics.upgrade(machine, tool, offered)
        yield upgraded


@pytest.fixture(scope="session")
def rolled_back(upgraded: Upgraded) -> RolledBack:
    """The upgraded machine, rolled back to the old image; `upgraded` still has the observations made before."""
    from lifsea_testbed.scenarios import basics

    return basics.roll_back(upgraded)


@pytest.fixture(scope="session")
def travelled(bench: MachineFactory, pytestconfig: pytest.Config,
              tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpgradeChain]:
    """A machine that was upgraded from image to image and back; the images are made from its own commit."""
    from lifsea_testbed.scenarios import upgrade_paths

    with _cold(bench, "travelled-machine") as machine:
        tools = _session(pytestconfig).extensions.upgrade_tools
        yield upgrade_paths.run_chain(bench, machine, tmp_path_factory.mktemp("offer"), tools)


@pytest.fixture(scope="session")
def troubled(bench: MachineFactory, pytestconfig: pytest.Config,
             tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultInjection]:
    """A machine whose upgrade met one injected fault after the other, and at last none."""
    from lifsea_testbed.scenarios import upgrade_paths

    with _cold(bench, "troubled-machine") as machine:
        tools = _session(pytestconfig).extensions.upgrade_tools
        yield upgrade_paths.inject_faults(bench, machine, tmp_path_factory.mktemp("offer"), tools)


@pytest.fixture(scope="session")
def power_cuts(bench: MachineFactory, pytestconfig: pytest.Config) -> PowerCuts:
    """The state of the machine after a power cut at each moment of an upgrade."""
    from lifsea_testbed.powercut import campaign

    return campaign.sweep_for_suite(bench, bench.context.destination, options.of(pytestconfig).power_cuts)


@pytest.fixture(scope="session")
def outages(bench: MachineFactory, restorer: MachinePool) -> Outages:
    """The observations of a machine whose power was cut several times while it worked; it is off again."""
    from lifsea_testbed.scenarios import outages

    with restorer.restored("outages-machine") as machine:
        return outages.cut_power(machine, bench.profile)


@pytest.fixture(scope="session")
def static_pod(bench: MachineFactory, restorer: MachinePool) -> StaticPod:
    """The observations of a static pod: run, killed, its runtime and kubelet restarted; its machine is off again."""
    from lifsea_testbed.scenarios import static_pod

    with restorer.restored("static-pod-machine") as machine:
        machine.wait_until_ready()
        return static_pod.run(machine, bench.profile)


# The cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Finds the host at fault for a fixture that failed while a program of the control plane had ended."""
    return (yield from _with_control_plane(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Finds the host at fault for a test that failed while a program of the control plane had ended."""
    return (yield from _with_control_plane(item))


def _with_control_plane(item: pytest.Item) -> Generator[None, Any, Any]:
    """Raises LaunchError in place of what a test of the cluster found wrong without one of the cluster's programs."""
    try:
        return (yield)
    except (AssertionError, pytest.fail.Exception):
        cluster = item.config.stash.get(_CLUSTER, None)
        if cluster is not None and "cluster" in getattr(item, "fixturenames", ()):
            cluster.require()
        raise


@pytest.fixture(scope="session")
def cluster(bench: MachineFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane; a machine that is off joins it at its first boot after `cluster.expect(machine)`."""
    from lifsea_testbed.errors import NotJudged, Reason

    try:
        from lifsea_testbed.cluster.cluster import Cluster
    except ImportError as error:
        raise NotJudged(f"a cluster needs more packages: {error} (hint: pip install 'lifsea-testbed[cluster]')",
                        Reason.HOST) \
            from None
    programs = options.of(pytestconfig).control_plane
    with Cluster(bench.profile, Path(programs).absolute() if programs else None,
                 records=bench.records / "cluster") as cluster:  # fmt: skip
        pytestconfig.stash[_CLUSTER] = cluster
        try:
            yield cluster
        finally:
            del pytestconfig.stash[_CLUSTER]


@pytest.fixture(scope="session")
def cluster_member(bench: MachineFactory, cluster: Cluster,
                   pytestconfig: pytest.Config) -> Iterator[tuple[Member, JoinedNode]]:  # fmt: skip
    """A new machine that its user-data made a Ready node of the cluster, and the observations of it."""
    from lifsea_testbed.cluster import lifecycle

    with ExitStack() as stack:
        with _session(pytestconfig).host.exclusive("a node that joins"):
            member = stack.enter_context(lifecycle.joined_node(cluster, bench.profile, bench.create))
        yield member


@pytest.fixture(scope="session")
def joined(cluster_member: tuple[Member, JoinedNode]) -> JoinedNode:
    """The observations of a new machine that its user-data made a Ready node of the cluster."""
    return cluster_member[1]


@pytest.fixture(scope="session")
def ran(bench: MachineFactory, cluster: Cluster, cluster_member: tuple[Member, JoinedNode],
        pytestconfig: pytest.Config) -> PodRun:  # fmt: skip
    """The observations of a pod on that node; the pod is being deleted."""
    from lifsea_testbed.cluster import lifecycle

    with _session(pytestconfig).host.exclusive("a pod that starts"):
        return lifecycle.run_pod(cluster, cluster_member[0], bench.profile)


@pytest.fixture(scope="session")
def interrupted(bench: MachineFactory, cluster: Cluster, cluster_member: tuple[Member, JoinedNode],
                ran: PodRun) -> InterruptedNode:  # fmt: skip
    """The observations of that node while the API server was unreachable, and after its kubelet stopped."""
    from lifsea_testbed.cluster import lifecycle

    return lifecycle.interrupt(cluster, cluster_member[0], bench.profile)
