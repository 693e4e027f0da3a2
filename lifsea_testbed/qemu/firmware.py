"""The UEFI firmware that is installed, found by QEMU's firmware descriptors (QEMU, docs/interop/firmware.json)."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifsea_testbed.errors import HostError
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.host_packages import install_hint

#: Where descriptors lie, the most specific place first: one there replaces those of the same name elsewhere, and an
#: empty one hides them (QEMU, docs/interop/firmware.json, "Management software").
PLACES = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_ARCHITECTURE = "x86_64"
_ENROLLED = frozenset({"secure-boot", "enrolled-keys"})
#: The features of a build that wants what its machine may lack: SMM, and keys that are not to be verified by.
_OTHER = frozenset({"requires-smm", "enrolled-keys"})


@dataclass(frozen=True, kw_only=True)
class FirmwareFiles:
    """A UEFI build: its code, and the template of the store that it keeps variables in, both raw images of flash."""

    description: str
    code: Path
    variables: Path


def find(firmware: Firmware, board: str, places: Sequence[Path] = PLACES) -> FirmwareFiles | None:
    """Returns the first installed build for that board, such as `pc-i440fx-10.0`; None for a BIOS, which QEMU brings.

    Raises:
        HostError: none is installed.
    """
    if not firmware.is_uefi:
        return None
    for description in _descriptions(places):
        if _fits(description, firmware, board):
            mapping = description["mapping"]
            return FirmwareFiles(description=str(description.get("description", "")),
                                 code=Path(mapping["executable"]["filename"]),
                                 variables=Path(mapping["nvram-template"]["filename"]))  # fmt: skip
    raise HostError(f"no {firmware} firmware for {board} is installed", hint=install_hint("ovmf"),
                    expected=f"a descriptor of it in {' or '.join(map(str, places))}")  # fmt: skip


def _descriptions(places: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The content of every descriptor that counts, in the order of names; one that cannot be read is passed by."""
    found: dict[str, Path] = {}
    for place in places:
        for path in place.glob("*.json"):
            found.setdefault(path.name, path)
    for _, path in sorted(found.items()):
        try:
            content = json.loads(path.read_bytes() or b"null")
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield content


def _fits(description: dict[str, Any], firmware: Firmware, board: str) -> bool:
    """Whether it is UEFI in two images of flash for that board, verifies signatures or not as wanted, and is there."""
    try:
        mapping, features = description["mapping"], set(description["features"])
        files = [mapping["executable"], mapping["nvram-template"]]
        return ("uefi" in description["interface-types"]
                and mapping["device"] == "flash" and mapping.get("mode", "split") == "split"
                and (features >= _ENROLLED if firmware is Firmware.UEFI_SECURE else not features & _OTHER)
                and any(target["architecture"] == _ARCHITECTURE
                        and any(fnmatch.fnmatchcase(board, pattern) for pattern in target["machines"])
                        for target in description["targets"])
                and all(file["format"] == "raw" and Path(file["filename"]).is_file() for file in files))  # fmt: skip
    except (KeyError, TypeError):
        return False
