"""The entry point of the pytest plugin: options, and the hooks that start a run. Without --image it does nothing."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from lifsea_testbed.plugin import fixtures, options

#: The options with which pytest runs no test: the reports of an earlier run stay.
_RUNS_NOTHING = ("help", "version", "collectonly", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow",
                 "setupplan")  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the command line options."""
    options.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Adds the short names of the options when everybody has added theirs, conftest.py included."""
    if (paths := options.test_paths(args, early_config, parser)) is not None:
        early_config.known_args_namespace.file_or_dir = paths
    try:
        return (yield)
    except Exception as error:
        # pytest reports its own exceptions; any other one would end it with a traceback and status 1.
        if type(error).__module__.startswith("_pytest.") or not options.names_an_image(args):
            raise
        raise pytest.UsageError(f"a plugin or conftest.py failed while pytest started: {error!r}") from error
    finally:
        options.add_short_names(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Adds the extension points."""
    from lifsea_testbed.plugin import hooks

    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Makes xdist keep the tests of one scenario together, unless --dist says how tests are distributed.

    Makes the exit status that of the verdict, whatever else fails.
    """
    if not _judges(config):
        return (yield)
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadgroup"
    try:
        from lifsea_testbed.plugin import ending
    except ImportError as error:
        raise pytest.UsageError(f"the test bed is not installed as a whole: {error} "
                                "(hint: pip install --force-reinstall lifsea-testbed)") from None  # fmt: skip

    return (yield from ending.concluded(config))


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Bounds the workers by memory as well as by processors: each has a machine of its own."""
    if not options.of(config).image:
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
    if not _judges(config):
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
        pytest.exit(f"the run did not start: {error!r}", returncode=pytest.ExitCode.INTERNAL_ERROR)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the part of the run in pytest's session."""
    session = fixtures.bound(config)
    if session is not None:
        config.pluginmanager.unregister(session)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses to run suites without an image; puts the tests that share a machine before those that do not."""
    judges = [item for item in items if item.get_closest_marker("claim")]
    if judges and not options.of(config).image and not _runs_nothing(config):
        raise pytest.UsageError(f"{judges[0].nodeid}: judges an image, and none was given (hint: --image out.qcow2)")
    if options.of(config).claim:
        _select(config, items)
    if options.of(config).image:
        from lifsea_testbed.plugin import ordering, xdist
        from lifsea_testbed.plugin.items import fixtures_of, moment_of

        items.sort(key=lambda item: ordering.sort_key(fixtures_of(item), moment_of(item)))
        if config.pluginmanager.has_plugin("xdist"):
            xdist.group_by_scenario(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None, None, None]:
    """Passes the group of each test to xdist."""
    if not options.of(session.config).image:
        yield
        return
    from lifsea_testbed.plugin import xdist

    yield from xdist.report_groups(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test of a claim that the profile does not make, before its fixtures are set up."""
    marker = item.get_closest_marker("claim")
    if marker is None or _runs_nothing(item.config):
        return
    profile = fixtures.profile_of(item.config)
    if marker.args[0] not in profile.claims:
        pytest.skip(f"{profile.title} does not promise {marker.args[0]}")


def _judges(config: pytest.Config) -> bool:
    """Whether this run judges an image: one was given, and tests are run."""
    return bool(options.of(config).image) and not _runs_nothing(config)


def _runs_nothing(config: pytest.Config) -> bool:
    return any(getattr(config.option, option, False) for option in _RUNS_NOTHING)


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects every test but those of the claims named by --claim."""
    markers = {item: item.get_closest_marker("claim") for item in items}
    chosen = [item for item, marker in markers.items() if marker and marker.args[0] in options.of(config).claim]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
