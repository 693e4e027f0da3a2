"""The processor of a machine: the option -cpu, and the models of it that this host's KVM can run.

Icelake-Server has versions (QEMU, target/i386/cpu.c): the first two lack ARCH_CAPABILITIES, by which a processor
declares that it is not affected by Meltdown, MDS and TAA; so a guest of them works around what an ecs.g7 does not have.
The machine type `pc` takes version 1 unless the option names another.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lifsea_testbed.ecs import guest_hardware
from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.programs import run_tool

#: The model under emulation.
EMULATED = "max"
#: The host's own processor; the second form is for a KVM that announces ARCH_CAPABILITIES and refuses to set it, on
#: which QEMU 10.0 aborts ("failed to set MSR 0x10a", observed under a hypervisor that emulates KVM in software).
HOSTS_OWN = ("host", "host,arch-capabilities=off")
_ICE_LAKE = re.compile(r"Icelake-Server-v(\d+)")
#: The first version with ARCH_CAPABILITIES.
_FIRST_VERSION = 3
#: The last extended CPUID leaf of Ice Lake.
_EXTENDED_LEAVES = 0x80000008
#: How long QEMU may take to list its models (seconds).
_LISTING = 30.0


def option(model: str) -> str:
    """Returns the option -cpu: that model, as close to the processor of an ecs.g7 as it can be made.

    EMULATED and Icelake-Server can have any model number; HOSTS_OWN keep the host's family, model and stepping.
    """
    cpu, words = guest_hardware.PROCESSOR, [model]
    if model not in HOSTS_OWN:
        words.append(f"vendor={cpu.vendor},family={cpu.family},model={cpu.model},stepping={cpu.stepping}")
    words += [f"{feature}=off" for feature in sorted(guest_hardware.HIDDEN_FEATURES)]
    if is_ice_lake(model):
        words += [f"{feature}=off" for feature in sorted(guest_hardware.DISABLED_FEATURES)]
    if model == EMULATED:
        # Without svm QEMU 7.2 ends the extended leaves before the name and the address width, and system calls of the
        # guest go wrong (observed: mounts fail, udev does not start).
        words.append(f"min-xlevel={_EXTENDED_LEAVES:#x}")
    return ",".join([*words, f"model-id={cpu.name}"])


def is_ice_lake(model: str) -> bool:
    """Returns whether the model is a version of Icelake-Server."""
    return _ICE_LAKE.fullmatch(model) is not None


def candidates(emulator: Emulator, kvm: Confinement) -> tuple[str, ...]:
    """Returns the models for this host's KVM, the closest to an ecs.g7 first; the first that runs code is to be used.

    Whether one of HOSTS_OWN runs code, only running it shows.
    """
    found = newest_ice_lake(definitions(emulator, kvm))
    return (found, *HOSTS_OWN) if found else HOSTS_OWN


def newest_ice_lake(models: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns the newest version of Icelake-Server with ARCH_CAPABILITIES of which KVM lacks nothing; None without one.

    The models are those of QMP's query-cpu-definitions. Features that `option` disables are not required.
    """
    usable = dict[int, str]()
    for model in models:
        name, lacking = str(model.get("name")), model.get("unavailable-features")
        if (match := _ICE_LAKE.fullmatch(name)) and lacking is not None \
                and set(lacking) <= guest_hardware.DISABLED_FEATURES | guest_hardware.HIDDEN_FEATURES:
            usable[int(match[1])] = name
    newest = max(usable, default=0)
    return usable[newest] if newest >= _FIRST_VERSION else None


def definitions(emulator: Emulator, kvm: Confinement) -> list[dict[str, Any]]:
    """Returns the models that QEMU lists under KVM; none if it does not start, which running code will show as well."""
    command = [emulator.binary, "-nodefaults", "-no-user-config", "-S", "-display", "none", "-machine", "none",
               "-accel", "kvm", "-qmp", "stdio"]  # fmt: skip
    requests = "".join(json.dumps({"execute": name}) + "\n"
                       for name in ("qmp_capabilities", "query-cpu-definitions", "quit"))  # fmt: skip
    with contextlib.suppress(ValueError, HostError):
        ended = run_tool(kvm.wrap(command), within=_LISTING, input=requests)
        answers = [json.loads(line).get("return") for line in split_lines(ended.stdout) if line.startswith("{")]
        return next((answer for answer in answers if isinstance(answer, list)), [])
    return []
