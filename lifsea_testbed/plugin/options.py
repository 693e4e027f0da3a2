"""The options of pytest: each has a name with this plugin's prefix, and a short one unless another plugin has that.

The long names are there from the start. The short ones are added when every plugin and every conftest.py of the start
has added its own options, so that it does not matter which of them was loaded first.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lifsea_testbed.support.shard import ShardIndex

PREFIX = "lifsea"
_IMAGES, _FIGURES, _SHORT = "lifsea", "lifsea-perf", "lifsea-short"
_TITLES = {_IMAGES: "container OS images (lifsea_testbed)", _FIGURES: "figures of container OS images (lifsea_testbed)"}


@dataclass(frozen=True, kw_only=True)
class _Option:
    """An option: its short name, the group that it is listed in, and its attributes for argparse."""

    name: str
    group: str
    attributes: Mapping[str, Any]

    @property
    def short(self) -> str:
        return f"--{self.name}"

    @property
    def long(self) -> str:
        return f"--{PREFIX}-{self.name}"

    @property
    def destination(self) -> str:
        return f"{PREFIX}_{self.name.replace('-', '_')}"


class RunOptions:
    """The values of this plugin's options in one process, each an attribute: `options.of(config).image`."""

    def __init__(self, namespace: argparse.Namespace) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._namespace, f"{PREFIX}_{name}")


def of(config: pytest.Config) -> RunOptions:
    """Returns the values of this plugin's options."""
    return RunOptions(config.option)


def name(config: pytest.Config, short: str) -> str:
    """Returns the option of that name as this run's command line spells it: the short name, if no one else has it."""
    option = next(each for each in _OPTIONS if each.name == short)
    others = {name for each in _registered(config._parser) if each.dest != option.destination for name in each.names()}
    return option.long if option.short in others else option.short


def add(parser: pytest.Parser) -> None:
    """Adds every option by its long name."""
    for option in _OPTIONS:
        group = parser.getgroup(option.group, _TITLES[option.group])
        group.addoption(option.long, dest=option.destination, **option.attributes)


def add_short_names(parser: pytest.Parser) -> None:
    """Adds the short names that nobody else has, and tells in the help which those are that somebody has."""
    taken = _names(parser)
    theirs = [option.short for option in _OPTIONS if option.short in taken]
    title = "short names of lifsea_testbed's options"
    title += f" (of another plugin: {', '.join(theirs)}; use --{PREFIX}-...)" if theirs else ""
    group = parser.getgroup(_SHORT, title)
    for option in _OPTIONS:
        if option.short not in taken:
            attributes = {**option.attributes, "help": f"the same as {option.long}"}
            group.addoption(option.short, dest=option.destination, **attributes)


def names_an_image(arguments: Sequence[str]) -> bool:
    """Returns whether the arguments, not parsed yet, have the option that makes a run judge an image."""
    image = _OPTIONS[0]
    return any(word.partition("=")[0] in (image.short, image.long) for word in arguments)


def test_paths(arguments: Sequence[str], config: pytest.Config, parser: pytest.Parser) -> list[str] | None:
    """Returns the files and directories among the arguments before `add_short_names`; None if they are misspelt.

    pytest itself takes the value of an option that it does not know yet for one of them.
    """
    try:
        known = parser.parse_known_args(_with_long_names(arguments, parser), namespace=copy.copy(config.option))
    except pytest.UsageError:
        return None
    return list(known.file_or_dir)


def _with_long_names(arguments: Sequence[str], parser: pytest.Parser) -> list[str]:
    """The arguments with the long name in place of each short one that nobody has yet."""
    taken = _names(parser)
    longs = {option.short: option.long for option in _OPTIONS if option.short not in taken}
    words = iter(_from_files(arguments))
    options = list(itertools.takewhile(lambda word: word != "--", words))
    return [*(_renamed(word, longs) for word in options), *(["--", *words] if "--" in arguments else [])]


def _renamed(word: str, longs: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    return f"{longs.get(name, name)}{equals}{value}"


def _from_files(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments, those in a file (`@file`, one a line) in place of its name; pytest complains of a bad file."""
    for word in arguments:
        if word.startswith("@"):
            from lifsea_testbed.support.lines import split_lines

            with contextlib.suppress(OSError, UnicodeDecodeError):
                yield from split_lines(Path(word[1:]).read_text("utf-8"))
        else:
            yield word


def _names(parser: pytest.Parser) -> set[str]:
    return {name for option in _registered(parser) for name in option.names()}


def _registered(parser: pytest.Parser) -> Iterator[Any]:
    for group in (*parser._groups, parser._anonymous):
        yield from group.options


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


def _image(name: str, help: str, **attributes: Any) -> _Option:
    return _Option(name=name, group=_IMAGES, attributes={"help": help, **attributes})


def _figure(name: str, help: str, **attributes: Any) -> _Option:
    return _Option(name=name, group=_FIGURES, attributes={"help": help, **attributes})


_OPTIONS = (
    _image("image", "boot this disk image (qcow2, raw, VHD, VHDX, VMDK); it is never written", metavar="FILE",
           action=_Once),
    _image("next-image", "the image to upgrade to: the same, one version on", metavar="FILE", action=_Once),
    _image("control-plane", "the directory of kube-apiserver and kube-controller-manager, for a cluster that nodes "
           "join (default: they are searched on PATH)", metavar="DIR"),
    _image("profile", "the profile, with the promises of the OS: a name, a .toml file, or auto, which chooses by "
           "os-release (default: %(default)s)", default="auto", metavar="NAME"),
    _image("claim", "judge this claim only; repeatable; such a run is never a pass", action="append", default=[],
           metavar="ID"),
    _image("require", "make the run 'not judged' (7) if a claim is not judged: all, the claims that are not for one "
           "reason (host, option, image), or a claim; several with commas; repeatable", action="append", default=[],
           metavar="WHAT"),
    _image("instance-type", "the instance type that machines look like (default: %(default)s)", default="ecs.g7.large",
           metavar="TYPE"),
    _image("data-disk", "the size of an empty data disk, 0 for none (default: the profile's)", metavar="GIB",
           type=_value("count", "--data-disk", most=65_536)),
    _image("firmware", "auto boots as the profile says, or as the disk is made for: by its boot code, or the loader on "
           "its ESP; uefi-secure verifies signatures (default: %(default)s)", default="auto",
           choices=("auto", "bios", "uefi", "uefi-secure")),
    _image("accel", "auto measures both, and takes KVM if it is really faster (default: %(default)s)", default="auto",
           choices=("auto", "kvm", "tcg")),
    _image("reports", "the directory for gate.json, junit.xml, allure/ and evidence/ (default: %(default)s)",
           default="reports", metavar="DIR"),
    _image("cold", "boot every machine, instead of restoring it from a snapshot", action="store_true"),
    _image("keep", "on-failure: save the machines of a failed test; lifsea-testbed shell --kept opens them later",
           choices=("on-failure",)),
    _image("known-issues", "a TOML file of failures that are accepted until a date; repeatable (see docs/verdict.md)",
           action="append", default=[], metavar="FILE"),
    _image("rerun-product", "with --reruns: run again also the tests that failed by the fault of the image",
           action="store_true"),
    _image("dump-memory", "keep the memory of a guest that failed among the evidence", action="store_true"),
    _image("sign-with", "sign gate.json with this secret key file of minisign", metavar="KEY"),
    _image("shard", "run the K-th of N parts of the tests; lifsea-testbed gate merge joins the verdicts", type=_shard,
           metavar="K/N"),
    _image("shard-durations", "with --shard: make parts that take equally long, by the run.json of an earlier run; "
           "give every shard the same files; repeatable", action="append", default=[], metavar="FILE"),
    _image("power-cuts", "cut the power in an upgrade, again and again for this time, such as 30m; without it that is "
           "not judged", type=_value("duration", "--power-cuts"), metavar="TIME"),
    _figure("boots", "the number of cold boots to judge boot time by (default: %(default)s)", default=10, metavar="N",
            type=_value("count", "--boots", least=1)),
    _figure("history", "store the figures in this SQLite file or PostgreSQL database, and judge them by earlier ones",
            metavar="FILE|URL"),
    _figure("perf-gate", "fail the run if a metric regressed since the last release, or is over its budget",
            action="store_true"),
    _figure("perf-release", "this image is a release: later images are compared with it", action="store_true"),
    _figure("perf-floor", "the smallest change that counts as one (default: %(default)s)", default=1.0,
            metavar="PERCENT", type=_value("percent", "--perf-floor")),
    _figure("image-version", "the image's version (default: VERSION_ID of its os-release)", default="", metavar="TEXT"),
    _figure("revision", "the source revision of the image (default: the git revision of the working directory)",
            default="", metavar="TEXT"),
    _figure("host-class", "the class of this host; figures of one class are compared (default: processor and cores)",
            default="", metavar="TEXT"),
    _figure("reports-url", "the URL at which the directory of --reports will be published", default="", metavar="URL"),
)  # fmt: skip
