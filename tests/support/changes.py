"""Changes that a test may make to a machine, each with a trace that `require_none` finds, and commands without any."""

from __future__ import annotations

from lifsea_testbed.machine.machine import Machine

#: Each leaves `testbed-change` where `_CHECK` looks: on disk, in memory, among processes, mounts and kernel settings.
CHANGES = (
    "echo {number} >/etc/testbed-change",
    "echo {number} >/var/testbed-change; sync",
    "echo {number} >/run/testbed-change",
    "mkdir -p /tmp/testbed-change/{number}",
    "sed -i '$a # testbed-change {number}' /etc/hosts",
    "echo testbed-change-{number} >/proc/sys/kernel/hostname",
    "mount -t tmpfs testbed-change /mnt",
    "ip link add testbed-change type dummy || ip link add testbed-change type veth",
    "systemd-run --unit testbed-change sleep 600",
    "echo testbed-change {number} >/dev/kmsg",
    "rm -rf /var/log/journal /run/log/journal; touch /etc/testbed-change",
    "dd if=/dev/urandom of=/var/testbed-change bs=1M count=8 2>/dev/null; sync",
)
COMMANDS = (
    "true", "cat /proc/meminfo", "ls -lR /etc", "systemctl list-units --all --no-pager", "dmesg | tail -n 20",
    "head -c 200000 /dev/urandom | od", "find /usr -type f | wc -l", "ip address", "sha256sum /bin/sh",
    "date; uptime; id",
)
_CHECK = """ls -d /etc/testbed-change /var/testbed-change /run/testbed-change /tmp/testbed-change 2>/dev/null
grep testbed-change /etc/hosts /proc/sys/kernel/hostname /proc/self/mounts
ls -d /sys/class/net/testbed-change /sys/fs/cgroup/system.slice/testbed-change.service 2>/dev/null
dmesg | grep testbed-change
true
"""


def require_none(machine: Machine) -> None:
    """Makes sure that a machine has none of the changes."""
    assert machine.run(_CHECK).stdout == ""
