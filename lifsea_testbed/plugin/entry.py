"""The pytest plugin: options, hooks and fixtures. Without --image it does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lifsea_testbed.boottime.campaign import ColdBoots
    from lifsea_testbed.disk.image import Image
    from lifsea_testbed.machine.factory import Bench
    from lifsea_testbed.machine.fleet import Fleet
    from lifsea_testbed.machine.machine import Machine
    from lifsea_testbed.machine.pool import Restorer
    from lifsea_testbed.perf.measure import Measure
    from lifsea_testbed.plugin.session import Run
    from lifsea_testbed.powercut.campaign import PowerCuts
    from lifsea_testbed.profiles.profile import Profile
    from lifsea_testbed.scenarios.basics import Rebooted, RolledBack, Twins, Upgraded
    from lifsea_testbed.scenarios.upgrade_paths import FaultInjection, UpgradeChain
    from lifsea_testbed.support.shard import ShardIndex

_RUN = "lifsea-testbed-run"
_MEASURING = "lifsea-testbed-measuring"
_SHARDING = "lifsea-testbed-sharding"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the test bed."""
    group = parser.getgroup("lifsea", "container OS images (lifsea_testbed)")
    group.addoption("--image", metavar="FILE", help="boot this qcow2 or raw image; it is never written")
    group.addoption("--next-image", metavar="FILE", help="the image one version on, to upgrade to")
    group.addoption("--control-plane", metavar="DIR",
                    help="where kube-apiserver and kube-controller-manager are, to join nodes to (default: PATH)")
    group.addoption("--profile", default="auto", metavar="NAME",
                    help="what the OS promises: a name, a .toml file, or auto, by os-release (default: %(default)s)")
    group.addoption("--claim", action="append", default=[], metavar="ID",
                    help="judge this claim only; repeatable; such a run is never a pass")
    group.addoption("--instance-type", default="ecs.g7.large", metavar="TYPE",
                    help="the instance to look like (default: %(default)s)")
    group.addoption("--data-disk", type=int, metavar="GIB",
                    help="the size of an empty data disk, 0 for none (default: as the profile says)")
    group.addoption("--accel", default="auto", choices=("auto", "kvm", "tcg"),
                    help="auto measures what KVM is worth here (default: %(default)s)")
    group.addoption("--reports", default="reports", metavar="DIR",
                    help="where gate.json, junit.xml, allure/ and evidence/ go (default: %(default)s)")
    group.addoption("--cold", action="store_true",
                    help="boot every machine, instead of restoring it from a template of one that was booted")
    group.addoption("--keep", choices=("on-failure",),
                    help="on-failure: save the machines of a failed test, so that a shell can be opened there later")
    group.addoption("--known-issues", action="append", default=[], metavar="FILE",
                    help="a TOML file of failures that are known for now; repeatable (see docs/verdict.md)")
    group.addoption("--rerun-product", action="store_true",
                    help="with --reruns: run again also what failed by the fault of the image")
    group.addoption("--dump-memory", action="store_true", help="keep the guest's memory among the evidence")
    group.addoption("--sign-with", metavar="KEY", help="sign gate.json with this key file of minisign")
    group.addoption("--shard", type=_shard, metavar="K/N",
                    help="run the K-th of N parts of the tests; the verdicts of all parts are to be joined")
    group.addoption("--shard-durations", action="append", default=[], metavar="FILE",
                    help="cut parts that take equally long, by an earlier run.json, the same for all; repeatable")
    group.addoption("--power-cuts", metavar="TIME",
                    help="cut the power in an upgrade, for so long: 30m; without it that is not judged")
    group = parser.getgroup("lifsea-perf", "figures of container OS images (lifsea_testbed)")
    group.addoption("--boots", type=int, default=10, metavar="N",
                    help="cold boots by which boot time is judged (default: %(default)s)")
    group.addoption("--history", metavar="FILE|URL",
                    help="keep what is measured in this SQLite file or PostgreSQL database, and judge it by it")
    group.addoption("--perf-gate", action="store_true",
                    help="fail if a metric regressed since the last release, or is over its budget")
    group.addoption("--perf-release", action="store_true",
                    help="this image is a release: later ones are compared with it")
    group.addoption("--perf-floor", type=float, default=1.0, metavar="PERCENT",
                    help="the smallest change that counts (default: %(default)s)")
    group.addoption("--image-version", default="", metavar="TEXT",
                    help="overrides VERSION_ID of the image's os-release")
    group.addoption("--revision", default="", metavar="TEXT",
                    help="what the image was built from (default: the git revision of the working directory)")
    group.addoption("--host-class", default="", metavar="TEXT",
                    help="hosts of one class are comparable (default: processor and number of cores)")
    group.addoption("--reports-url", default="", metavar="URL", help="where --reports will be published")


def _shard(text: str) -> ShardIndex:
    from lifsea_testbed.errors import CallerError
    from lifsea_testbed.support.shard import ShardIndex

    try:
        return ShardIndex.parse(text)
    except CallerError as error:
        raise pytest.UsageError(error.one_line) from None


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Has xdist keep the tests of one scenario together, unless --dist says how tests are spread."""
    if config.option.image and getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadgroup"
    return (yield)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Bounds the workers by memory as well as by processors: each has a machine of its own."""
    if not config.option.image or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from lifsea_testbed.errors import Explained
    from lifsea_testbed.machine import preflight

    try:
        return preflight.workers(config.option.instance_type)
    except Explained:
        return 1  # what is wrong is said before anything starts


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuses bad input in one line; otherwise gets the run ready."""
    config.addinivalue_line("markers", "claim(id): the promise that the test judges (see claims.toml)")
    config.addinivalue_line("markers", "shares_machine: the test changes nothing on its machine, which is checked")
    if not config.option.image or config.option.help or config.option.collectonly:
        return
    from lifsea_testbed.plugin import cluster_fixtures
    from lifsea_testbed.plugin.figures import Measuring
    from lifsea_testbed.plugin.fixture_teardown import LetsGo
    from lifsea_testbed.plugin.session import Run

    run = Run.start(config)
    config.pluginmanager.register(run, _RUN)
    config.pluginmanager.register(cluster_fixtures)
    config.pluginmanager.register(LetsGo({__name__, cluster_fixtures.__name__}, run.shared.close))
    if config.option.shard:
        from lifsea_testbed.plugin.shards import Sharding

        sharding = Sharding.start(config)
        run.plan = lambda: sharding.plan
        config.pluginmanager.register(sharding, _SHARDING)
    config.pluginmanager.register(Measuring.start(config, run), _MEASURING)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None, Any, Any]:
    """Has a run come to a verdict, too, whose worker died while xdist started it."""
    try:
        return (yield)
    except (EOFError, OSError) as error:
        run = session.config.pluginmanager.get_plugin(_RUN)
        if run is None:
            raise
        run.pytest_sessionfinish(session, pytest.ExitCode.INTERNAL_ERROR)
        pytest.exit(f"the run did not start: {error!r}", returncode=int(session.exitstatus))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes what the machines left, and prints the verdict as the last line."""
    run = config.pluginmanager.get_plugin(_RUN)
    if run is not None:
        config.pluginmanager.unregister(run)
        run.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses to run suites without an image; puts the tests that share a machine before those that do not."""
    judged = [item for item in items if item.get_closest_marker("claim")]
    if judged and not config.option.image and not config.option.collectonly:
        raise pytest.UsageError(f"{judged[0].nodeid}: nothing to judge (hint: --image out.qcow2)")
    if config.option.claim:
        _select(config, items)
    if config.option.image:
        _arrange(config, items)


def _arrange(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests that share a machine first, and those of one scenario into a group of xdist, if they have none."""
    from lifsea_testbed.plugin import ordering
    from lifsea_testbed.plugin.items import fixtures_of

    items.sort(key=lambda item: ordering.turn(fixtures_of(item)))
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        name = ordering.scenario(fixtures_of(item))
        if name and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None, None, None]:
    """Puts its group into a test's name while xdist's worker tells it, and takes it out again.

    xdist 3.8 does so itself, but by an attribute that pytest 9.2 does not look at: no group would come through.
    """
    if not session.config.option.image:
        yield
        return
    from lifsea_testbed.plugin import ordering

    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            marker = item.get_closest_marker("xdist_group")
            if marker and marker.args and "@" not in item.nodeid:
                _rename(item, f"{item.nodeid}@{marker.args[0]}")
    yield
    for item in session.items:
        _rename(item, ordering.name(item.nodeid))


def _rename(item: Any, name: str) -> None:
    if name == item.nodeid:
        return
    if hasattr(item, "_id"):
        from _pytest.nodeid import coerce_node_id

        item._id = coerce_node_id(name)
    else:
        item._nodeid = name


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the claims that the user named."""
    markers = {item: item.get_closest_marker("claim") for item in items}
    chosen = [item for item, marker in markers.items() if marker and marker.args[0] in config.option.claim]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test of a claim that the profile does not make, before anything is set up for it."""
    marker = item.get_closest_marker("claim")
    if marker is not None and marker.args[0] not in (profile := _profile(item.config)).claims:
        pytest.skip(f"{profile.title} does not promise {marker.args[0]}")


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """The image, the profile, the host and the hardware of this run; it makes machines."""
    return _run(pytestconfig).bench


def _run(config: pytest.Config) -> Run:
    run: Run | None = config.pluginmanager.get_plugin(_RUN)
    if run is None:
        raise pytest.UsageError("no machine can be made without an image (hint: --image out.qcow2)")
    return run


@pytest.fixture(scope="session")
def restorer(pytestconfig: pytest.Config) -> Restorer:
    """What restores machines from a template, or boots them where that cannot be done."""
    return _run(pytestconfig).restorer


@pytest.fixture
def machine(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A clean machine, up and ready: the test's own, to be changed at will, restored from a template.

    With `@pytest.mark.shares_machine` it is one that all tests with that mark share, and that they leave as it is.
    """
    from lifsea_testbed.plugin import figures

    run = _run(request.config)
    shares = request.node.get_closest_marker("shares_machine")
    with run.shared.lent() if shares else run.restorer.machine(request.node.nodeid) as lent:
        if not shares and lent.restored_in is not None:
            figures.restored(request.node, lent.restored_in)
        yield lent


@pytest.fixture(scope="session")
def booted(bench: Bench, pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A machine that was booted cold in this run, shared by the tests that judge its boot."""
    with _run(pytestconfig).restorer.booted("booted-machine") as booted:
        yield booted


@pytest.fixture(scope="session")
def watched(booted: Machine, bench: Bench) -> Machine:
    """The booted machine, once it has been up for as long as the profile watches it."""
    from lifsea_testbed.scenarios import basics

    return basics.watch(booted, bench.profile.boot.watched)


@pytest.fixture(scope="session")
def twins(booted: Machine, bench: Bench) -> Iterator[Twins]:
    """What the booted machine and another one of the same image have in common, and what they do not."""
    from lifsea_testbed.scenarios import basics

    with bench.machine("twin-machine") as other:
        yield basics.compare(booted, other)


@pytest.fixture(scope="session")
def cold_boots(bench: Bench, pytestconfig: pytest.Config) -> ColdBoots:
    """What was seen of cold boots on disks of their own."""
    from lifsea_testbed.boottime import campaign

    return campaign.cold_boots(bench, pytestconfig.option.boots)


@pytest.fixture
def own_machine(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of the test's own, booted cold: for whatever speaks of its first boot."""
    with _run(request.config).restorer.booted(request.node.nodeid) as own:
        yield own


@pytest.fixture
def machines(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Fleet]]:
    """Makes fleets: `machines(3)` is three machines, up and on a private network of their own; gone after the test."""
    from lifsea_testbed.machine import fleet

    with fleet.Maker(request.node.nodeid, make=bench.machine, memory_for=bench.memory_for) as maker:
        yield maker


@pytest.fixture(scope="session")
def rebooted(bench: Bench) -> Rebooted:
    """What became of a machine that was rebooted once; it is off again."""
    from lifsea_testbed.scenarios import basics

    with bench.machine("rebooted-machine") as machine:
        return basics.reboot(machine)


@pytest.fixture(scope="session")
def upgraded(bench: Bench, next_image: Image) -> Iterator[Upgraded]:
    """A machine that runs the next image."""
    from lifsea_testbed.scenarios import basics

    with bench.machine("upgraded-machine") as machine:
        yield basics.upgrade(machine, next_image)


@pytest.fixture(scope="session")
def rolled_back(upgraded: Upgraded) -> RolledBack:
    """The upgraded machine, gone back to the old image; `upgraded` still says what was seen before."""
    from lifsea_testbed.scenarios import basics

    return basics.roll_back(upgraded)


@pytest.fixture(scope="session")
def travelled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpgradeChain]:
    """A machine that went from image to image and back, by commits that are made up from its own."""
    from lifsea_testbed.scenarios import upgrade_paths

    with bench.machine("travelled-machine") as machine:
        yield upgrade_paths.run_chain(bench, machine, tmp_path_factory.mktemp("offer"))


@pytest.fixture(scope="session")
def troubled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultInjection]:
    """A machine whose upgrade met one trouble after the other, and none in the end."""
    from lifsea_testbed.scenarios import upgrade_paths

    with bench.machine("troubled-machine") as machine:
        yield upgrade_paths.inject_faults(bench, machine, tmp_path_factory.mktemp("offer"))


@pytest.fixture(scope="session")
def power_cuts(bench: Bench, pytestconfig: pytest.Config) -> PowerCuts:
    """What became of an upgrade of the image at each moment at which the power may fail."""
    from lifsea_testbed.powercut import campaign

    return campaign.sweep_for_suite(bench, _run(pytestconfig).prepared.wish.reports, pytestconfig.option.power_cuts)


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Takes figures: `measure("boot", 1.93, unit="s", better="lower")`."""
    from lifsea_testbed.plugin import figures

    return figures.measure_of(request.node)


@pytest.fixture
def profile(pytestconfig: pytest.Config) -> Profile:
    """What the OS under test promises; with --profile auto it is known once a machine is up."""
    return _profile(pytestconfig)


def _profile(config: pytest.Config) -> Profile:
    run = _run(config)
    if not run.bench.is_identified:
        run.shared.machine()
    return run.bench.profile


@pytest.fixture(scope="session")
def next_image(bench: Bench) -> Image:
    """The image to upgrade to."""
    from lifsea_testbed.errors import NotJudged

    if bench.next_image is None:
        raise NotJudged("no image to upgrade to was given (--next-image)")
    return bench.next_image
