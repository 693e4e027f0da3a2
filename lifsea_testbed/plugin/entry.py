"""The entry point of the pytest plugin: options, and the hooks that start a run. Without --image it does nothing."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lifsea_testbed.plugin import fixtures

if TYPE_CHECKING:
    from lifsea_testbed.support.shard import ShardIndex

#: The options with which pytest runs no test: the reports of an earlier run stay.
_RUNS_NOTHING = ("help", "version", "collectonly", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the command line options."""
    group = parser.getgroup("lifsea", "container OS images (lifsea_testbed)")
    group.addoption("--image", metavar="FILE", action=_Once, help="boot this qcow2 or raw image; it is never written")
    group.addoption("--next-image", metavar="FILE", action=_Once,
                    help="the image to upgrade to: the same, one version on")
    group.addoption("--control-plane", metavar="DIR",
                    help="the directory of kube-apiserver and kube-controller-manager, for a cluster that nodes join "
                         "(default: they are searched on PATH)")
    group.addoption("--profile", default="auto", metavar="NAME",
                    help="the profile, with the promises of the OS: a name, a .toml file, or auto, which chooses by "
                         "os-release (default: %(default)s)")
    group.addoption("--claim", action="append", default=[], metavar="ID",
                    help="judge this claim only; repeatable; such a run is never a pass")
    group.addoption("--require", action="append", default=[], metavar="WHAT",
                    help="make the run 'not judged' (7) if a claim is not judged: all, the claims that are not for one "
                         "reason (host, option, image), or a claim; several with commas; repeatable")
    group.addoption("--instance-type", default="ecs.g7.large", metavar="TYPE",
                    help="the instance type that machines look like (default: %(default)s)")
    group.addoption("--data-disk", type=_value("count", "--data-disk", most=65_536), metavar="GIB",
                    help="the size of an empty data disk, 0 for none (default: the profile's)")
    group.addoption("--accel", default="auto", choices=("auto", "kvm", "tcg"),
                    help="auto measures both, and takes KVM if it is really faster (default: %(default)s)")
    group.addoption("--reports", default="reports", metavar="DIR",
                    help="the directory for gate.json, junit.xml, allure/ and evidence/ (default: %(default)s)")
    group.addoption("--cold", action="store_true",
                    help="boot every machine, instead of restoring it from a snapshot")
    group.addoption("--keep", choices=("on-failure",),
                    help="on-failure: save the machines of a failed test; lifsea-testbed shell --kept opens them later")
    group.addoption("--known-issues", action="append", default=[], metavar="FILE",
                    help="a TOML file of failures that are accepted until a date; repeatable (see docs/verdict.md)")
    group.addoption("--rerun-product", action="store_true",
                    help="with --reruns: run again also the tests that failed by the fault of the image")
    group.addoption("--dump-memory", action="store_true",
                    help="keep the memory of a guest that failed among the evidence")
    group.addoption("--sign-with", metavar="KEY", help="sign gate.json with this secret key file of minisign")
    group.addoption("--shard", type=_shard, metavar="K/N",
                    help="run the K-th of N parts of the tests; lifsea-testbed gate merge joins the verdicts")
    group.addoption("--shard-durations", action="append", default=[], metavar="FILE",
                    help="with --shard: make parts that take equally long, by the run.json of an earlier run; give "
                         "every shard the same files; repeatable")
    group.addoption("--power-cuts", type=_value("duration", "--power-cuts"), metavar="TIME",
                    help="cut the power in an upgrade, again and again for this time, such as 30m; without it that is "
                         "not judged")
    group = parser.getgroup("lifsea-perf", "figures of container OS images (lifsea_testbed)")
    group.addoption("--boots", type=_value("count", "--boots", least=1), default=10, metavar="N",
                    help="the number of cold boots to judge boot time by (default: %(default)s)")
    group.addoption("--history", metavar="FILE|URL",
                    help="store the figures in this SQLite file or PostgreSQL database, and judge them by earlier ones")
    group.addoption("--perf-gate", action="store_true",
                    help="fail the run if a metric regressed since the last release, or is over its budget")
    group.addoption("--perf-release", action="store_true",
                    help="this image is a release: later images are compared with it")
    group.addoption("--perf-floor", type=_value("percent", "--perf-floor"), default=1.0, metavar="PERCENT",
                    help="the smallest change that counts as one (default: %(default)s)")
    group.addoption("--image-version", default="", metavar="TEXT",
                    help="the image's version (default: VERSION_ID of its os-release)")
    group.addoption("--revision", default="", metavar="TEXT",
                    help="the source revision of the image (default: the git revision of the working directory)")
    group.addoption("--host-class", default="", metavar="TEXT",
                    help="the class of this host; figures of one class are compared (default: processor and cores)")
    group.addoption("--reports-url", default="", metavar="URL",
                    help="the URL at which the directory of --reports will be published")


class _Once(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        from lifsea_testbed.support.option_values import Once

        with _one_line():
            Once(self.option_strings, self.dest)(parser, namespace, values, option_string)


def _value(kind: str, option: str, **bounds: int) -> Callable[[str], Any]:
    """The parser of that kind in `support.option_values`, which is imported when the option is first used."""

    def parsed(text: str) -> Any:
        from lifsea_testbed.support import option_values

        with _one_line():
            return getattr(option_values, kind)(text, option, **bounds)

    return parsed


def _shard(text: str) -> ShardIndex:
    from lifsea_testbed.support.shard import ShardIndex

    with _one_line():
        return ShardIndex.parse(text)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Makes bad input the one line of a usage error."""
    from lifsea_testbed.errors import CallerError
    from lifsea_testbed.support.sanitize import printable

    try:
        yield
    except CallerError as error:
        raise pytest.UsageError(printable(error.one_line)) from None


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Adds the extension points."""
    from lifsea_testbed.plugin import hooks

    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Makes xdist keep the tests of one scenario together, unless --dist says how tests are distributed."""
    if config.option.image and getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadgroup"
    return (yield)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Bounds the workers by memory as well as by processors: each has a machine of its own."""
    if not config.option.image:
        return None
    from lifsea_testbed.plugin import xdist

    return xdist.auto_workers(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuses bad input in one line; otherwise starts the session."""
    config.addinivalue_line("markers", "claim(id): the claim that the test judges (see claims.toml)")
    config.addinivalue_line("markers", "hardware_model: the test judges the test bed's hardware, not the image; its "
                                       "failure is 'broken'")
    config.addinivalue_line("markers", "shares_machine: the test changes nothing on its machine, which is checked")
    config.pluginmanager.register(fixtures)
    if not config.option.image or any(getattr(config.option, option, False) for option in _RUNS_NOTHING):
        return
    if (getattr(config.option, "reruns", None) or 0) < 0:
        raise pytest.UsageError(f"--reruns {config.option.reruns}: not a whole number from 0 on")
    from lifsea_testbed.plugin.fixture_teardown import EarlyTeardown
    from lifsea_testbed.plugin.session import Session

    session = Session.start(config)
    fixtures.bind(config, session)
    config.pluginmanager.register(EarlyTeardown({fixtures.__name__}, session.pool.close_shared))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None, Any, Any]:
    """Settles the verdict of a run that ends because a worker died while xdist started it."""
    try:
        return (yield)
    except (EOFError, OSError) as error:
        run = fixtures.bound(session.config)
        if run is None:
            raise
        run.pytest_sessionfinish(session, pytest.ExitCode.INTERNAL_ERROR)
        pytest.exit(f"the run did not start: {error!r}", returncode=int(session.exitstatus))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the machines' temporary files, and prints the verdict as the last line."""
    session = fixtures.bound(config)
    if session is not None:
        config.pluginmanager.unregister(session)
        session.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses to run suites without an image; puts the tests that share a machine before those that do not."""
    judges = [item for item in items if item.get_closest_marker("claim")]
    if judges and not config.option.image and not config.option.collectonly:
        raise pytest.UsageError(f"{judges[0].nodeid}: judges an image, and none was given (hint: --image out.qcow2)")
    if config.option.claim:
        _select(config, items)
    if config.option.image:
        from lifsea_testbed.plugin import ordering, xdist
        from lifsea_testbed.plugin.items import fixtures_of, moment_of

        items.sort(key=lambda item: ordering.sort_key(fixtures_of(item), moment_of(item)))
        if config.pluginmanager.has_plugin("xdist"):
            xdist.group_by_scenario(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None, None, None]:
    """Passes the group of each test to xdist."""
    if not session.config.option.image:
        yield
        return
    from lifsea_testbed.plugin import xdist

    yield from xdist.report_groups(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test of a claim that the profile does not make, before its fixtures are set up."""
    marker = item.get_closest_marker("claim")
    if marker is None:
        return
    profile = fixtures.profile_of(item.config)
    if marker.args[0] not in profile.claims:
        pytest.skip(f"{profile.title} does not promise {marker.args[0]}")


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects every test but those of the claims named by --claim."""
    markers = {item: item.get_closest_marker("claim") for item in items}
    chosen = [item for item, marker in markers.items() if marker and marker.args[0] in config.option.claim]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
