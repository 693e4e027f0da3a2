"""What the main process of a run found out about images and host, and the other processes need not find out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lifsea_testbed.disk.image import Image
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind


@dataclass(frozen=True, kw_only=True)
class Found:
    """Images that were examined, the accelerator, the memory of a guest (MiB), and where overlays are to lie."""

    image: Image
    next_image: Image | None
    accelerator: Accelerator
    memory: int
    place: Path

    def facts(self) -> dict[str, Any]:
        """The same in numbers, texts, lists and dictionaries, as processes can tell each other."""
        return {"image": self.image.to_json(), "next_image": self.next_image.to_json() if self.next_image else None,
                "accelerator": {**asdict(self.accelerator), "kind": str(self.accelerator.kind)},
                "memory": self.memory, "place": str(self.place)}  # fmt: skip

    @classmethod
    def known_by(cls, facts: Mapping[str, Any]) -> Found:
        """Returns what these facts say.

        Raises:
            ImageRefused: an image was changed since.
        """
        image, other, accelerator = facts["image"], facts["next_image"], facts["accelerator"]
        return cls(image=Image.from_json(image), next_image=Image.from_json(other) if other else None,
                   accelerator=Accelerator(**{**accelerator, "kind": AcceleratorKind(accelerator["kind"])}),
                   memory=facts["memory"], place=Path(facts["place"]))  # fmt: skip
