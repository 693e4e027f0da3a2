"""The context of one run: the options of the command line, and the facts about images and host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance_types import InstanceType
from lifsea_testbed.qemu.accelerator import Accelerator
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.qemu.firmware import FirmwareFiles
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.private_dir import Leftover
from lifsea_testbed.support.shard import ShardIndex

#: The value of --profile that has preflight choose the profile by the release files on the image's disk.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The configuration of one run, the same in all its processes.

    `profile` is a name or a file, `profile_reason` says why it is that one, `firmware_reason` why that firmware;
    `firmware_files` are those of UEFI. `accelerator_option` is the option as given, `accelerator` the one chosen.
    `required` has the claims and reasons that --require names, `durations` (seconds) those of the tests in an earlier
    run. `memory` (MiB) is the memory of each guest, `scratch` the directory of overlays, `removed` the leftovers of
    killed runs that preflight removed. The reports are written in `reports`; when the run has ended they are in
    `published`.
    """

    image: Image
    next_image: Image | None = None
    profile: str
    instance_type: InstanceType
    accelerator_option: str
    accelerator: Accelerator
    emulator: Emulator
    memory: int
    scratch: Path
    reports: Path
    claims: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    shard: ShardIndex | None = None
    durations: Mapping[str, float] = field(default_factory=dict)
    known_issues: tuple[Path, ...] = ()
    dump_memory: bool = False
    data_disk: int | None = None
    firmware: Firmware = Firmware.BIOS
    firmware_files: FirmwareFiles | None = None
    firmware_reason: str = "the default"
    profile_reason: str = "named by --profile"
    removed: tuple[Leftover, ...] = ()
    published: Path | None = None

    @property
    def memory_is_short(self) -> bool:
        """Whether guests have less memory than the instance type."""
        return self.memory < self.instance_type.memory

    @property
    def destination(self) -> Path:
        """The directory that has the reports when the run has ended."""
        return self.published or self.reports

    def place_of(self, report: Path) -> Path:
        """Returns where a report is when the run has ended."""
        return self.destination / report.relative_to(self.reports)

    def to_json(self) -> str:
        """Returns the context for another process, with the digests of the images."""
        digests = [image.sha256 for image in self._images]
        return json.dumps({"context": _ADAPTER.dump_python(self, mode="json"), "digests": digests})

    @classmethod
    def from_json(cls, text: str) -> RunContext:
        """Returns the context that another process sent; images are not read again.

        Raises:
            ImageRefused: an image has changed since.
        """
        fields = json.loads(text)
        context = _ADAPTER.validate_python(fields["context"])
        for image, digest in zip(context._images, fields["digests"], strict=True):
            image.trust_digest(digest)
        return context

    @property
    def _images(self) -> list[Image]:
        return [self.image, *([self.next_image] if self.next_image else [])]


_ADAPTER = TypeAdapter(RunContext)
