"""The guest: every question that a suite can ask, in one place, answered for the profile under judgement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import (
    accounts,
    clock,
    containers,
    disk,
    files,
    hardware,
    kernel,
    kubernetes,
    network,
    node,
    operations,
    ostree,
    packages,
    system,
    udev,
    units,
)
from lifsea_testbed.guest.content import Asked, Content
from lifsea_testbed.guest.offline import OfflineTree
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.protocols import Shell


class Guest:
    """Asks a running machine, and knows which names and paths its profile uses.

    Where the image offers no shell, `offline` is set: it gives what the disk holds, and that answers the questions
    about the content of the image. Every other question raises NotJudged then.
    """

    def __init__(self, shell: Shell, profile: Callable[[], Profile],
                 offline: Callable[[], OfflineTree] | None = None) -> None:
        self.offline = offline
        self._running = shell
        self._profile = profile

    @property
    def _shell(self) -> Shell:
        if self.offline is not None:
            raise NotJudged("the image offers no shell: only what its disk holds can be told")
        return self._running

    @property
    def _content(self) -> Content:
        return self.offline() if self.offline is not None else Asked(self._running)

    @property
    def os_release(self) -> dict[str, str]:
        """The fields of /etc/os-release."""
        return self._content.os_release()

    @property
    def host_name(self) -> str:
        """The kernel's host name."""
        return system.host_name(self._shell)

    @property
    def has_posix_shell(self) -> bool:
        """Whether /bin/sh runs a script; on a disk, whether it is an executable file."""
        return self._content.has_posix_shell()

    @property
    def user_data_runs(self) -> list[str]:
        """The user identifier of each run of the user-data script, in order."""
        return system.user_data_runs(self._shell)

    # Packages and files

    def packages(self) -> list[packages.Package]:
        """The installed packages."""
        return self._content.packages(self._profile().packages.databases)

    def package_databases_written(self) -> list[str]:
        """The directories of package databases that root could write an installed package down in."""
        return files.accepted_writes(self._shell, packages.database_directories(self._profile().packages.databases))

    def writable_paths(self) -> list[str]:
        """The topmost directories that root can write to."""
        return files.writable_paths(self._shell)

    def accepted_writes(self, directories: list[str]) -> list[str]:
        """The directories of these in which root could make a file."""
        return files.accepted_writes(self._shell, directories)

    def link_target(self, path: str) -> str:
        """Where a path leads to."""
        return self._content.link_target(path)

    def file_system_of(self, path: str) -> str:
        """The type of file system that a path lies on."""
        return files.file_system_of(self._shell, path)

    def read(self, path: str) -> str | None:
        """The text of a file, or nothing."""
        return files.read(self._shell, path)

    def write(self, path: str, text: str) -> None:
        """Writes a file and has it reach the disk."""
        files.write(self._shell, path, text)

    def executables_named(self, patterns: list[str]) -> list[str]:
        """The executables whose name is one of the patterns."""
        return files.named(self._executables, patterns)

    def executables_holding(self, marks: list[str]) -> list[str]:
        """The executables whose content has one of the marks."""
        return self._content.executables_holding(marks)

    def files_matching(self, patterns: list[str]) -> list[str]:
        """The files whose name fits one of the shell's patterns."""
        return files.matching(self._shell, patterns)

    def setuid_files(self) -> list[str]:
        """The files that give privileges to whoever starts them."""
        return list(map(str, self._content.setuid_files()))

    def usr_digests(self) -> list[str]:
        """A line for each file below /usr: what it is, whose it is, and its digest."""
        return files.digests(self._shell, "/usr")

    @functools.cached_property
    def _executables(self) -> list[PurePosixPath]:
        return self._content.executables()

    # Kernel and units

    def initramfs_signs(self) -> list[str]:
        """Every sign of an initramfs."""
        return self._content.initramfs_signs()

    def loaded_modules(self) -> list[str]:
        """The kernel modules that are loaded."""
        return kernel.loaded_modules(self._shell)

    def kernel_errors(self) -> list[str]:
        """The kernel's error messages that the profile does not allow."""
        return kernel.errors(self._shell, self._profile().boot.allowed_kernel_errors)

    def troubles(self) -> list[str]:
        """What is said of programs that died of a signal or were denied something."""
        return kernel.troubles(self._shell)

    def uptime(self) -> float:
        """Seconds since the kernel started."""
        return kernel.uptime(self._shell)

    def memory_used(self) -> int:
        """The bytes of memory that are in use."""
        return kernel.memory_used(self._shell)

    def sysctls(self, names: Iterable[str]) -> dict[str, int | str]:
        """The values of kernel settings; absent where the kernel has no such one."""
        return kernel.sysctls(self._shell, names)

    def udev_rules(self) -> list[str]:
        """The rules of udev."""
        return udev.rules(self._shell)

    def system_state(self) -> str:
        """What systemd says of the whole system."""
        return units.state(self._shell)

    def failed_units(self) -> list[str]:
        """The units that failed."""
        return units.failed(self._shell)

    def restarted_units(self) -> list[str]:
        """The services that had to be started again."""
        return units.restarted(self._shell)

    def bus_names(self) -> list[str]:
        """The names on the system bus."""
        return units.bus_names(self._shell)

    def units_named(self, pattern: str) -> list[str]:
        """The unit files whose name matches."""
        return self._content.units_named(pattern)

    # Network, disk, accounts, clock

    def ssh_speakers(self) -> list[network.Listener]:
        """The listeners that speak ssh."""
        return network.ssh_speakers(self._shell)

    def unlisted_ports(self, allowed: list[str]) -> list[str]:
        """The open ports that are not on the list."""
        return network.unlisted(network.open_ports(self._shell), allowed)

    def identity(self) -> dict[str, str]:
        """The digests of the files that tell this machine from others."""
        return node.identity(self._shell, self._profile().nodes.differ)

    def root_disk(self) -> disk.RootDisk:
        """The sizes of the system disk."""
        return disk.root_disk(self._shell)

    def disks(self) -> dict[str, str]:
        """The virtio disks by serial."""
        return disk.disks(self._shell)

    def accounts_with_password(self) -> list[str]:
        """The accounts that a password opens."""
        return self._content.accounts_with_password()

    def automatic_logins(self) -> list[str]:
        """The gettys that log somebody in without asking."""
        return accounts.logged_in_by_themselves(self._shell)

    def time_sources(self) -> list[str]:
        """The time servers that chronyd asks."""
        return clock.time_sources(self._shell)

    def clock_ahead(self) -> float:
        """The seconds that the system's clock is ahead of the host's."""
        return clock.ahead(self._shell)

    @property
    def hardware(self) -> hardware.Hardware:
        """What the machine looks like from inside."""
        return hardware.Hardware(self._shell)

    # Containers and the operations container

    def containerd_version(self) -> str | None:
        """The version of the containerd that answers."""
        return containers.containerd_version(self._shell)

    def cri_state(self) -> str:
        """The state of containerd's CRI plugin."""
        return containers.cri_state(self._shell)

    def kubelet_health(self) -> str | None:
        """What the kubelet's healthz answers."""
        return containers.kubelet_health(self._shell)

    def escaped_writes(self, directories: list[str]) -> list[str]:
        """The host's directories of these that a privileged container can write to."""
        return containers.escaped_writes(self._shell, self._profile().containers.escape, directories)

    @property
    def operations(self) -> operations.OperationsContainer:
        """The operations container."""
        return operations.OperationsContainer(self._shell, self._profile().operations)

    @property
    def kubernetes(self) -> kubernetes.Kubernetes:
        """The container runtime, the kubelet, and the pods."""
        return kubernetes.Kubernetes(self._shell, self._profile().cluster)

    # Deployments

    def deployments(self) -> list[ostree.Deployment]:
        """The deployments in boot order."""
        return ostree.deployments(self._shell)

    def booted_deployment(self) -> ostree.Deployment:
        """The deployment that runs."""
        return ostree.booted(self._shell)

    def repository_damage(self) -> list[str]:
        """What is wrong with the ostree repository."""
        return ostree.damage(self._shell)

    def changed_files(self) -> list[str]:
        """The files below /usr that are not those of the booted commit."""
        return ostree.changed_files(self._shell, self.booted_deployment().commit)

    def deploy_from_disk(self, device: str) -> str:
        """Deploys the image that another disk holds; returns its commit."""
        commit = ostree.pull_from_disk(self._shell, device)
        ostree.deploy(self._shell, self.booted_deployment().os, commit)
        return commit

    def roll_back(self) -> None:
        """Has the previous deployment boot next."""
        ostree.roll_back(self._shell)

    def new_defaults_missing(self) -> list[str]:
        """The defaults of the running image that did not reach /etc."""
        return ostree.defaults_missing(self._shell)
