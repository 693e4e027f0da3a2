"""Takes the baseline of a released image: what it has where nobody publishes how much it may have."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.network import unlisted
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.baseline import Baseline, BaselineFigure
from lifsea_testbed.profiles.profile import BootSection, PackagesSection, Profile, value_of
from lifsea_testbed.scenarios.basics import bring_forward, watch
from lifsea_testbed.support.sanitize import printable

#: What was read at one moment, by key; NotJudged where that could not be read.
Observation = Mapping[str, int | list[str] | NotJudged]
_MEBIBYTE = 1 << 20
#: The first port of those that the kernel gives to a program that does not name one (ip-sysctl, ip_local_port_range).
_FIRST_EPHEMERAL = 32768
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


@dataclass(frozen=True, kw_only=True)
class BaselineReading:
    """A figure that can be read of an image: by `read`, from its guest and its file.

    `is_broken` compares it with the value that a profile has already. One that is `only_promised` is of no use to a
    profile that does not make its claim.
    """

    key: str
    claim: str
    what: str
    read: Callable[[Guest, Image], int | list[str]]
    is_broken: Callable[[int | list[str], Profile], bool]
    only_promised: bool = False


def take(factory: MachineFactory) -> Baseline:
    """Boots the image by its profile, and reads every figure at the two moments at which the suites look.

    An image without a shell is read on its disk.

    Raises:
        Explained: the image did not come up, or broke while it was read.
    """
    boot, image = factory.profile.boot, factory.image
    with factory.create(MachineSpec(name="baseline")) as machine:
        seen = [observe(moment(machine, boot).guest, image, factory.profile) for moment in (_after_boot, bring_forward)]
        version = f", VERSION_ID {factory.image_version}" if factory.image_version else ""
        source = f"{printable(image.path.name)}, sha256 {image.sha256}{version}"
        return conclude(seen, factory.profile, extends=factory.context.profile, source=source)


def observe(guest: Guest, image: Image, base: Profile) -> Observation:
    """Returns what an image has, now, of everything that can be read and is of use to that profile."""
    return {reading.key: _value(reading, guest, image) for reading in READINGS
            if reading.claim in base.claims or not reading.only_promised}  # fmt: skip


def conclude(seen: Sequence[Observation], base: Profile, *, extends: str, source: str) -> Baseline:
    """Returns the figures of an image that was observed at these moments: numbers of the first, lists of all.

    What cannot be read is left out, and a figure that breaks a promise of the profile: no promise is loosened.
    """
    figures: list[BaselineFigure] = []
    left: dict[str, str] = {}
    for reading in (reading for reading in READINGS if reading.key in seen[0]):
        value = _together([observation[reading.key] for observation in seen])
        if isinstance(value, NotJudged):
            left[reading.key] = f"it cannot be read: {value}"
        elif reading.claim in base.claims and reading.is_broken(value, base):
            left[reading.key] = f"the image breaks {reading.claim} as {base.name} promises it, which is not loosened"
        else:
            figures.append(BaselineFigure(key=reading.key, value=_written(reading.key, value), claim=reading.claim,
                                          what=reading.what))  # fmt: skip
    return Baseline(source=source, extends=extends, base=base, figures=tuple(figures), left=left)


def _after_boot(machine: Machine, boot: BootSection) -> Machine:
    return watch(machine, boot.watched)


def _value(reading: BaselineReading, guest: Guest, image: Image) -> int | list[str] | NotJudged:
    try:
        return reading.read(guest, image)
    except NotJudged as error:
        return error


def _together(values: Sequence[int | list[str] | NotJudged]) -> int | list[str] | NotJudged:
    """The items of all lists, or the first number; NotJudged if there was none at any moment.

    The suites look at what is open and privileged at each moment, but count after the boot: what the machine starts
    later, such as the transient units of its jobs, is not of the image.
    """
    if lists := [value for value in values if isinstance(value, list)]:
        return list(dict.fromkeys(item for items in lists for item in items))
    return next((value for value in values if isinstance(value, int)), values[0])


def listener_patterns(ports: Iterable[str]) -> list[str]:
    """Returns regular expressions that match these ports on every machine of the image.

    An address of the machine's own stands for any address, and a port that the kernel gave for any port.
    """
    return list(dict.fromkeys(map(_listener_pattern, ports)))


def _listener_pattern(port: str) -> str:
    protocol, endpoint, program = port.split(" ", 2)
    address, _, number = endpoint.rpartition(":")
    found = ipaddress.ip_address(address)
    own = r"[\d.]+" if found.version == 4 else r"[\da-f:]+"
    place = _escaped(address) if found.is_loopback or found.is_unspecified else own
    number = number if int(number) < _FIRST_EPHEMERAL else r"\d+"
    return f"{protocol} {place}:{number} {_escaped(program)}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _written(key: str, value: int | list[str]) -> int | list[str]:
    return listener_patterns(value) if key == "security.listeners" and isinstance(value, list) else value


def _exceeds(key: str) -> Callable[[int | list[str], Profile], bool]:
    return lambda value, base: isinstance(value, int) and value > value_of(base, key)


def _is_wrong_count(value: int | list[str], base: Profile) -> bool:
    packages: PackagesSection = base.packages
    return isinstance(value, int) and not packages.least <= value <= packages.most


def _holds_more(value: int | list[str], base: Profile) -> bool:
    return isinstance(value, list) and not set(value) <= set(base.security.setuid or ())


def _opens_more(value: int | list[str], base: Profile) -> bool:
    return isinstance(value, list) and unlisted(value, base.security.listeners or ()) != []


#: Everything that can be read, in the order of the sections of a profile.
READINGS = (
    BaselineReading(key="image.most", claim="image-small", what="MiB of the file, compressed, rounded up",
                    read=lambda guest, image: -(-image.compressed_size // _MEBIBYTE),
                    is_broken=_exceeds("image.most")),
    BaselineReading(key="packages.most", claim="packages-about-200", what="packages", only_promised=True,
                    read=lambda guest, image: len(guest.packages.installed()), is_broken=_is_wrong_count),
    BaselineReading(key="budget.units", claim="few-units", what="unit files",
                    read=lambda guest, image: len(guest.units.named(".*")), is_broken=_exceeds("budget.units")),
    BaselineReading(key="budget.udev_rules", claim="few-udev-rules", what="rules, in all files of udev together",
                    read=lambda guest, image: len(guest.system.udev_rules()), is_broken=_exceeds("budget.udev_rules")),
    BaselineReading(key="security.listeners", claim="no-surprise-listeners", what="open ports, with their programs",
                    read=lambda guest, image: guest.network.open_ports(), is_broken=_opens_more),
    BaselineReading(key="security.setuid", claim="setuid-known",
                    what="files that give privileges to every user who starts them",
                    read=lambda guest, image: guest.files.setuid(), is_broken=_holds_more),
)  # fmt: skip
