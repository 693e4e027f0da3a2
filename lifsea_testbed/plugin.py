"""The pytest plugin: options, hooks and fixtures. Without --image it does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lifsea_testbed.bench import Bench
    from lifsea_testbed.boottime.coldboots import ColdBoots
    from lifsea_testbed.image import Image
    from lifsea_testbed.machine import Machine
    from lifsea_testbed.perf.measure import Measure
    from lifsea_testbed.profile import Profile
    from lifsea_testbed.run import Run
    from lifsea_testbed.scenario import Rebooted, RolledBack, Twins, Upgraded

_RUN = "lifsea-testbed-run"
_MEASURING = "lifsea-testbed-measuring"
#: The fixtures that are, or come from, a machine that the test does not share as it was booted.
_CHANGED = frozenset({"own_machine", "twins", "rebooted", "upgraded", "cold_boots"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the test bed."""
    group = parser.getgroup("lifsea", "container OS images (lifsea_testbed)")
    group.addoption("--image", metavar="FILE", help="boot this qcow2 or raw image; it is never written")
    group.addoption("--next-image", metavar="FILE", help="the image one version on, to upgrade to")
    group.addoption("--profile", default="auto", metavar="NAME",
                    help="what the OS promises: a name, a .toml file, or auto, by os-release (default: %(default)s)")
    group.addoption("--claim", action="append", default=[], metavar="ID",
                    help="judge this claim only; repeatable; such a run is never a pass")
    group.addoption("--instance-type", default="ecs.g7.large", metavar="TYPE",
                    help="the instance to look like (default: %(default)s)")
    group.addoption("--accel", default="auto", choices=("auto", "kvm", "tcg"),
                    help="auto measures what KVM is worth here (default: %(default)s)")
    group.addoption("--reports", default="reports", metavar="DIR",
                    help="where gate.json, junit.xml, allure/ and evidence/ go (default: %(default)s)")
    group.addoption("--known-issues", action="append", default=[], metavar="FILE",
                    help="a TOML file of failures that are known for now; repeatable (see docs/verdict.md)")
    group.addoption("--rerun-product", action="store_true",
                    help="with --reruns: run again also what failed by the fault of the image")
    group.addoption("--dump-memory", action="store_true", help="keep the guest's memory among the evidence")
    group.addoption("--sign-with", metavar="KEY", help="sign gate.json with this key file of minisign")
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


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuses bad input in one line; otherwise gets the run ready."""
    config.addinivalue_line("markers", "claim(id): the promise that the test judges (see claims.toml)")
    if not config.option.image or config.option.help or config.option.collectonly:
        return
    from lifsea_testbed.measuring import Measuring
    from lifsea_testbed.run import Run

    run = Run.start(config)
    config.pluginmanager.register(run, _RUN)
    config.pluginmanager.register(Measuring.start(config, run), _MEASURING)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes what the machines left, and prints the verdict as the last line."""
    run = config.pluginmanager.get_plugin(_RUN)
    if run is not None:
        config.pluginmanager.unregister(run)
        run.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses to run suites without an image; puts the tests that share a machine before those that do not."""
    judged = [item for item in items if item.get_closest_marker("claim")]
    if judged and not config.option.image and not config.option.collectonly:
        raise pytest.UsageError(f"{judged[0].nodeid}: nothing to judge (hint: --image out.qcow2)")
    if config.option.claim:
        _select(config, items)
    items.sort(key=lambda item: not _CHANGED.isdisjoint(getattr(item, "fixturenames", ())))


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the claims that the user named."""
    markers = {item: item.get_closest_marker("claim") for item in items}
    chosen = [item for item, marker in markers.items() if marker and marker.args[0] in config.option.claim]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """The image, the profile, the host and the hardware of this run; it makes machines."""
    run: Run | None = pytestconfig.pluginmanager.get_plugin(_RUN)
    if run is None:
        raise pytest.UsageError("no machine can be made without an image (hint: --image out.qcow2)")
    return run.bench


@pytest.fixture(scope="session")
def machine(bench: Bench) -> Iterator[Machine]:
    """A machine that is shared by tests that leave no trace on it, booted once."""
    with bench.machine("shared-machine") as shared:
        yield shared


@pytest.fixture(scope="session")
def watched(machine: Machine, bench: Bench) -> Machine:
    """The shared machine, once it has been up for as long as the profile watches it."""
    from lifsea_testbed import scenario

    return scenario.watch(machine, bench.profile.boot.watched)


@pytest.fixture(scope="session")
def twins(machine: Machine, bench: Bench) -> Iterator[Twins]:
    """What the shared machine and another one of the same image have in common, and what they do not."""
    from lifsea_testbed import scenario

    with bench.machine("twin-machine") as other:
        yield scenario.compare(machine, other)


@pytest.fixture(scope="session")
def cold_boots(bench: Bench, pytestconfig: pytest.Config) -> ColdBoots:
    """What was seen of cold boots on disks of their own."""
    from lifsea_testbed.boottime import coldboots

    return coldboots.cold_boots(bench, pytestconfig.option.boots)


@pytest.fixture
def own_machine(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of the test's own, booted cold: for reboots, upgrades and whatever else changes it."""
    with bench.machine(request.node.nodeid) as own:
        yield own


@pytest.fixture(scope="session")
def rebooted(bench: Bench) -> Rebooted:
    """What became of a machine that was rebooted once; it is off again."""
    from lifsea_testbed import scenario

    with bench.machine("rebooted-machine") as machine:
        return scenario.reboot(machine)


@pytest.fixture(scope="session")
def upgraded(bench: Bench, next_image: Image) -> Iterator[Upgraded]:
    """A machine that runs the next image."""
    from lifsea_testbed import scenario

    with bench.machine("upgraded-machine") as machine:
        yield scenario.upgrade(machine, next_image)


@pytest.fixture(scope="session")
def rolled_back(upgraded: Upgraded) -> RolledBack:
    """The upgraded machine, gone back to the old image; `upgraded` still says what was seen before."""
    from lifsea_testbed import scenario

    return scenario.roll_back(upgraded)


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Takes figures: `measure("boot", 1.93, unit="s", better="lower")`."""
    from lifsea_testbed import measuring

    return measuring.measure_of(request.node)


@pytest.fixture
def profile(machine: Machine, bench: Bench) -> Profile:
    """What the OS under test promises; known once its first machine has booted."""
    return bench.profile


@pytest.fixture(scope="session")
def next_image(bench: Bench) -> Image:
    """The image to upgrade to."""
    from lifsea_testbed.errors import NotJudged

    if bench.next_image is None:
        raise NotJudged("no image to upgrade to was given (--next-image)")
    return bench.next_image


@pytest.fixture(autouse=True)
def _promised(request: pytest.FixtureRequest) -> None:
    """Skips a test of a claim that the profile does not make."""
    marker = request.node.get_closest_marker("claim")
    if marker is not None and marker.args[0] not in request.getfixturevalue("profile").claims:
        pytest.skip(f"{request.getfixturevalue('profile').title} does not promise {marker.args[0]}")
