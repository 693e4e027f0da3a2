"""UEFI is found by the descriptors that QEMU's packages install, in the order that they are written for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu import emulator, firmware
from lifsea_testbed.support.firmware import Firmware

BOARD = "pc-i440fx-10.0"


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """A place of the administrator's, and the packages' after it."""
    found = [tmp_path / "etc", tmp_path / "usr"]
    for place in found:
        place.mkdir()
    return found


def described(place: Path, name: str, *, features: tuple[str, ...] = (), board: str = "pc-i440fx-*",
              **mapping: Any) -> Path:
    """Writes a descriptor, as OVMF's package has it, with its two files; returns the code."""
    code, variables = (place / f"{name}.{kind}" for kind in ("code", "variables"))
    for path in (code, variables):
        path.write_bytes(b"x")
    files = {"device": "flash", "executable": {"filename": str(code), "format": "raw"},
             "nvram-template": {"filename": str(variables), "format": "raw"}, **mapping}
    (place / f"{name}.json").write_text(json.dumps({
        "description": name, "interface-types": ["uefi"], "mapping": files, "features": ["acpi-s3", *features],
        "targets": [{"architecture": "x86_64", "machines": [board]}], "tags": [],
    }))  # fmt: skip
    return code


def found(places: list[Path], wanted: Firmware = Firmware.UEFI, board: str = BOARD) -> str:
    files = firmware.find(wanted, board, places)
    assert files is not None
    assert files.variables == files.code.with_suffix(".variables")
    return files.code.stem


def test_a_bios_needs_no_files(places: list[Path]) -> None:
    assert firmware.find(Firmware.BIOS, BOARD, places) is None


def test_the_first_descriptor_that_fits_is_taken(places: list[Path]) -> None:
    described(places[1], "40-enrolled", features=("secure-boot", "enrolled-keys", "requires-smm"))
    described(places[1], "50-smm", features=("secure-boot", "requires-smm"))
    described(places[1], "55-other-board", board="pc-q35-*")
    described(places[1], "60-plain")
    described(places[1], "70-later")
    assert found(places) == "60-plain"
    assert found(places, Firmware.UEFI_SECURE) == "40-enrolled"


def test_the_administrators_descriptor_replaces_hides_or_comes_before_the_packages(places: list[Path]) -> None:
    described(places[1], "60-plain")
    described(places[0], "50-mine")
    assert found(places) == "50-mine"
    (places[0] / "50-mine.json").unlink()
    described(places[0], "60-plain")
    files = firmware.find(Firmware.UEFI, BOARD, places)
    assert files is not None and files.code.parent == places[0]
    (places[0] / "60-plain.json").write_bytes(b"")
    with pytest.raises(HostError):
        found(places)


@pytest.mark.parametrize("mapping", [
    {"device": "memory"}, {"mode": "stateless"}, {"executable": {"filename": "/no/such", "format": "raw"}},
    {"executable": {"filename": "/dev/null", "format": "qcow2"}}, {"nvram-template": None},
])  # fmt: skip
def test_firmware_of_another_kind_is_passed_by(places: list[Path], mapping: dict[str, Any]) -> None:
    described(places[1], "10-other", **mapping)
    described(places[1], "60-plain")
    assert found(places) == "60-plain"


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"mapping": 1}', "\xff"])
def test_a_descriptor_that_is_none_is_passed_by(places: list[Path], text: str) -> None:
    (places[1] / "00-broken.json").write_text(text, "latin-1")
    described(places[1], "60-plain")
    assert found(places) == "60-plain"


def test_a_host_without_uefi_says_what_to_install(places: list[Path]) -> None:
    with pytest.raises(HostError, match=r"no uefi firmware for pc-i440fx-10\.0 is installed") as caught:
        firmware.find(Firmware.UEFI, BOARD, places)
    assert "ovmf" in caught.value.hint and str(places[1]) in caught.value.expected


@pytest.mark.parametrize("wanted", [Firmware.UEFI, Firmware.UEFI_SECURE])
def test_the_installed_package_has_uefi_for_the_machines_board(wanted: Firmware) -> None:
    files = firmware.find(wanted, emulator.find().board(wanted))
    assert files is not None and files.code.stat().st_size > files.variables.stat().st_size > 0
