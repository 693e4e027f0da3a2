"""The machine factory: the profile that a run is held to, as the hint of a failed boot names it; the version."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.ecs.metadata_faults import MetadataFaults
from lifsea_testbed.errors import BootFailed, Explained, GuestCrashed, NotJudged, Reason, TimerStarved, WaitTimedOut
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from tests.machine.test_context import context
from tests.support.boot_sector import raw_image


class FakeMachine:
    """A machine on which no shell opens."""

    def __init__(self, error: Explained) -> None:
        self.instance = SimpleNamespace(id="i-1")
        self._error = error

    def power_on(self) -> None:
        raise self._error


@pytest.mark.parametrize("reason", ["named by --profile", "chosen by ID=alinux, VERSION_ID=3 on partition 2"])
@pytest.mark.parametrize("hint", ["", "read the transcript"])
@pytest.mark.parametrize("error", [BootFailed, GuestCrashed, WaitTimedOut])
def test_a_failed_boot_names_the_profile_and_why_it_was_chosen(
    tmp_path: Path, reason: str, hint: str, error: type[Explained]
) -> None:
    run = replace(context(raw_image(tmp_path / "disk.raw")), profile_reason=reason)
    machine: Any = FakeMachine(error("it did not come up", hint=hint))
    with contextlib.closing(MachineFactory(run)) as factory, pytest.raises(error) as caught:
        factory._power_on(machine, MachineSpec(name="m"))
    assert caught.value.hint == "; ".join(filter(None, [hint, f"held to profile reference ({reason})"]))


def test_a_fault_of_the_host_names_no_profile(tmp_path: Path) -> None:
    machine: Any = FakeMachine(TimerStarved("the timer did not tick", hint="free the host"))
    run = context(raw_image(tmp_path / "disk.raw"))
    with contextlib.closing(MachineFactory(run)) as factory, pytest.raises(TimerStarved) as caught:
        factory._power_on(machine, MachineSpec(name="m"))
    assert caught.value.hint == "free the host"


@pytest.mark.parametrize(("answers", "version", "asked"), [
    ([{"VERSION_ID": "3.3.0"}, {"VERSION_ID": "9"}], "3.3.0", 1),
    ([GuestCrashed("panic"), {"VERSION_ID": "3.3.0"}], "3.3.0", 2),
    ([NotJudged("no os-release", Reason.IMAGE), {"VERSION_ID": "9"}], "", 1),
])  # fmt: skip
def test_an_image_is_asked_for_its_version_as_long_as_it_may_tell_one(answers: list[Any], version: str,
                                                                      asked: int) -> None:
    rest = list(answers)

    def os_release() -> dict[str, str]:
        answer = rest.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    factory: Any = SimpleNamespace(image_version="", _tells_no_version=False)
    machine: Any = SimpleNamespace(guest=SimpleNamespace(system=SimpleNamespace(os_release=os_release)))
    for _ in range(2):
        MachineFactory.identify(factory, machine)
    assert (factory.image_version, len(answers) - len(rest)) == (version, asked)


class FakeFactory(MachineFactory):
    """A factory whose machines end as they are told to, the plain ones otherwise than the difficult ones."""

    def __init__(self, run: Any, *, plain: Explained | None, difficult: Explained | None) -> None:
        super().__init__(run)
        self.made: list[str] = []
        self._ends = {True: plain, False: difficult}

    @contextlib.contextmanager
    def _off(self, spec: MachineSpec) -> Any:
        self.made.append(spec.name)
        end = self._ends[spec.is_plain]

        def power_on() -> None:
            if end is not None:
                raise end

        yield SimpleNamespace(
            instance=SimpleNamespace(id="i-1"), power_on=power_on, shell_after=1.0, access_method="none",
            collect_postmortem=lambda: None, boot=SimpleNamespace(close=lambda: None),
            guest=SimpleNamespace(system=SimpleNamespace(os_release=dict)))  # fmt: skip


HARDENED = MetadataFaults(token_required=True)


@pytest.mark.parametrize(("plain", "difficult", "kind", "made", "is_down"), [
    (None, BootFailed("no token"), BootFailed, ["m", "m-plain"], False),
    (GuestCrashed("panic"), BootFailed("no token"), GuestCrashed, ["m", "m-plain"], True),
    (GuestCrashed("panic"), TimerStarved("busy"), TimerStarved, ["m"], False),
], ids=["difficult alone", "never", "host"])  # fmt: skip
def test_an_image_is_down_only_if_it_does_not_come_up_as_it_is(
    tmp_path: Path, plain: Explained | None, difficult: Explained, kind: type[Explained], made: list[str], is_down: bool
) -> None:
    run = context(raw_image(tmp_path / "disk.raw"))
    with contextlib.closing(FakeFactory(run, plain=plain, difficult=difficult)) as factory:
        with pytest.raises(kind) as caught, factory.create(MachineSpec(name="m", faults=HARDENED)):
            pass
        assert (factory.made, getattr(caught.value, "kept_image_down", False)) == (made, is_down)


def test_a_later_failure_keeps_no_image_down(tmp_path: Path) -> None:
    run = context(raw_image(tmp_path / "disk.raw"))
    with contextlib.closing(FakeFactory(run, plain=None, difficult=BootFailed("no token"))) as factory:
        with factory.create(MachineSpec(name="first")):
            pass
        with pytest.raises(BootFailed) as caught, factory.create(MachineSpec(name="m", faults=HARDENED)):
            pass
    assert factory.made == ["first", "m"] and not caught.value.kept_image_down


def test_an_image_that_is_down_is_booted_once_and_every_error_says_so(tmp_path: Path) -> None:
    run = context(raw_image(tmp_path / "disk.raw"))
    with contextlib.closing(FakeFactory(run, plain=GuestCrashed("panic"), difficult=None)) as factory:
        for name in ("first", "second"):
            with pytest.raises(GuestCrashed) as caught, factory.create(MachineSpec(name=name)):
                pass
            assert caught.value.kept_image_down
    assert factory.made == ["first"]
