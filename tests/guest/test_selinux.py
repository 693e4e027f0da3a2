"""SELinux is judged by the kernel, its arguments, the configuration and the programs that run."""

from __future__ import annotations

import pytest

from lifsea_testbed.guest.selinux import Selinux
from tests.support.fakes import FakeShell

SOUND = {"/sys/fs/selinux": "enforce: 1\n", "/proc/cmdline": "ro root=/dev/vda4 selinux=1\n",
         "selinux/config": "# SELINUX= can take one of\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
         "attr/current": "system_u:system_r:init_t:s0 systemd\nsystem_u:system_r:chronyd_t:s0 chronyd\n"}  # fmt: skip


def deviations(mode: str = "enforcing", **changed: str) -> list[str]:
    keys = {"state": "/sys/fs/selinux", "arguments": "/proc/cmdline", "configuration": "selinux/config",
            "contexts": "attr/current"}  # fmt: skip
    return Selinux(FakeShell({**SOUND, **{keys[name]: text for name, text in changed.items()}})).deviations(mode)


def test_an_enforcing_system_shows_no_sign_of_another() -> None:
    assert deviations() == []


@pytest.mark.parametrize(("changed", "sign"), [
    ({"state": "kernel: no SELinux\n"}, "kernel: no SELinux"),
    ({"state": "enforce: 0\n"}, "kernel: permissive"),
    ({"state": "enforce: \n"}, "kernel: "),
    ({"state": "enforce: 1\nkernel: no policy is loaded\n"}, "kernel: no policy is loaded"),
    ({"arguments": "ro enforcing=0\n"}, "kernel argument enforcing=0"),
    ({"arguments": "ro selinux=0"}, "kernel argument selinux=0"),
    ({"configuration": "SELINUX=enforcing\nSELINUX=permissive\n"}, "/etc/selinux/config: SELINUX=permissive"),
    ({"configuration": "SELINUX = disabled\n"}, "/etc/selinux/config: SELINUX=disabled"),
    ({"configuration": ""}, "/etc/selinux/config: no SELINUX="),
    ({"contexts": "kernel systemd\nkernel chronyd\n"}, "no program is confined: kernel"),
    ({"contexts": "system_u:system_r:kernel_t:s0 a\nu:r:unconfined_t:s0-s0:c0.c1023 b\n"},
     "no program is confined: kernel_t, unconfined_t"),
    ({"contexts": ""}, "no program is confined: none has a context"),
])  # fmt: skip
def test_each_sign_of_another_mode_is_found(changed: dict[str, str], sign: str) -> None:
    assert deviations(**changed) == [sign]


def test_a_permissive_system_may_be_what_is_promised() -> None:
    assert deviations("permissive", state="enforce: 0\n", arguments="enforcing=0",
                      configuration="SELINUX=permissive\n") == []  # fmt: skip
    assert deviations("permissive", configuration="SELINUX=permissive\n") == ["kernel: enforcing"]
