"""The processor of a machine: the newest version of Icelake-Server that KVM runs, or the host's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu import accelerator, emulator, processor
from lifsea_testbed.qemu.accelerator import AcceleratorKind, confine
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support import private_dir
from lifsea_testbed.support.confinement import Confinement
from tests.support.quick import needs_kvm

MODELS = ("max", "host", "Icelake-Server-v6", "host,arch-capabilities=off")


def definitions(**lacking: list[str] | None) -> list[dict[str, Any]]:
    """What QEMU answers on a host that lacks these features of the versions of Icelake-Server."""
    named = [{"name": f"Icelake-Server-{version}", "unavailable-features": features}
             for version, features in lacking.items()]  # fmt: skip
    return [{"name": "host", "unavailable-features": []}, {"name": "Icelake-Server", "unavailable-features": []},
            {"name": "Icelake-Client-v9", "unavailable-features": []}, *named]  # fmt: skip


@pytest.mark.parametrize(("lacking", "chosen"), [
    ({"v1": [], "v2": [], "v3": [], "v4": []}, "Icelake-Server-v4"),
    ({"v3": [], "v10": [], "v9": []}, "Icelake-Server-v10"),
    ({"v3": [], "v5": ["xsaves"]}, "Icelake-Server-v3"),
    ({"v6": [], "v7": ["hle", "rtm"]}, "Icelake-Server-v7"),
    ({"v1": [], "v2": []}, None),
    ({"v1": [], "v2": [], "v3": ["ibrs-all"]}, None),
    ({"v3": None}, None),
    ({}, None),
])  # fmt: skip
def test_the_newest_version_that_declares_what_it_is_not_affected_by_is_chosen(
    lacking: dict[str, list[str] | None], chosen: str | None
) -> None:
    assert processor.newest_ice_lake(definitions(**lacking)) == chosen


def test_a_model_of_an_ice_lake_has_no_transactional_memory() -> None:
    assert {"hle=off", "rtm=off"} <= set(processor.option("Icelake-Server-v7").split(","))
    assert {"hle=off", "rtm=off"}.isdisjoint(processor.option("host").split(","))


@pytest.mark.parametrize("model", MODELS)
def test_every_processor_is_named_as_sold_and_runs_no_guests_of_its_own(model: str) -> None:
    words = processor.option(model).split(",")
    assert ",".join(words).startswith(f"{model},") and "8369B" in words[-1]
    assert {"svm=off", "vmx=off"} <= set(words)
    assert ("model=106" in words) == (not model.startswith("host"))


def test_an_emulated_processor_has_the_leaves_that_its_name_is_in() -> None:
    assert "min-xlevel=0x80000008" in processor.option("max").split(",")


@pytest.mark.parametrize(("answer", "found"), [
    ('{"return": [{"name": "Icelake-Server-v6", "unavailable-features": []}]}', ["Icelake-Server-v6"]),
    ('{"return": {}}', []), ("qemu: no KVM", []), ("{half an ans", []),
])  # fmt: skip
def test_the_hosts_own_processor_is_the_last_resort(answer: str, found: list[str]) -> None:
    with private_dir.PrivateDirectory() as private:
        fake = private.path / "qemu"
        fake.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")
        fake.chmod(0o755)
        private.path.chmod(0o755)
        with confine(AcceleratorKind.TCG) as confinement:
            candidates = processor.candidates(Emulator(binary=str(fake), version="10.0.2"), confinement)
    assert candidates == (*found, *processor.HOSTS_OWN)


def test_a_qemu_that_does_not_answer_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_LISTING", 0.1)
    slow = Confinement(uid=0, gid=0)
    monkeypatch.setattr(Confinement, "wrap", lambda self, command: ["sleep", "60"])
    assert processor.definitions(Emulator(binary="qemu", version="10.0.2"), slow) == []


@needs_kvm
@pytest.mark.boots
def test_this_hosts_kvm_runs_code_on_the_processor_that_is_chosen() -> None:
    speed = accelerator.measure_kvm(emulator.find(), least=1e9, within=15.0)
    assert speed.rate > 0.0, speed.last_line
    with confine(AcceleratorKind.KVM) as confinement:
        assert speed.cpu_model in processor.candidates(emulator.find(), confinement)


@needs_kvm
@pytest.mark.boots
def test_kvm_is_taken_or_refused_by_its_speed() -> None:
    chosen = accelerator.choose("auto", emulator.find())
    if chosen.kind is AcceleratorKind.KVM:
        assert accelerator.choose("kvm", emulator.find()).kind is AcceleratorKind.KVM
        assert chosen.cpu_model != processor.EMULATED
    else:
        assert "KVM is not usable here" in chosen.why and chosen.cpu_model == processor.EMULATED
        with pytest.raises(HostError, match=r"KVM is not usable on this host: KVM runs .* M instructions/s"):
            accelerator.choose("kvm", emulator.find())


def test_without_the_device_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_KVM", Path("/nonexistent/kvm"))
    monkeypatch.setattr(accelerator, "measure", lambda kind, emulator: accelerator.Speed(rate=1800.0))
    chosen = accelerator.choose("auto", Emulator(binary="qemu", version="10.0.2"))
    assert chosen.kind is AcceleratorKind.TCG and "/dev/kvm does not exist" in chosen.why


@needs_kvm
@pytest.mark.boots
def test_qemu_lists_its_models_under_kvm() -> None:
    with confine(AcceleratorKind.KVM) as confinement:
        listed = processor.definitions(emulator.find(), confinement)
    assert {"host", "Icelake-Server-v1"} <= {definition["name"] for definition in listed}
    assert all("unavailable-features" in definition for definition in listed)
