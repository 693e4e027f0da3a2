"""The guest: a machine seen from inside, by subject, with the names and paths of the profile under judgement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from lifsea_testbed.errors import CallerError
from lifsea_testbed.guest.accounts import Accounts
from lifsea_testbed.guest.boot import BootTimes
from lifsea_testbed.guest.cri import ContainerRuntime
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.hardware import VisibleHardware
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.kubelet import Kubelet
from lifsea_testbed.guest.network import GuestNetwork
from lifsea_testbed.guest.offline import (
    OfflineAccounts,
    OfflineDeployments,
    OfflineFiles,
    OfflineKernel,
    OfflinePackages,
    OfflineSystem,
    OfflineTree,
    OfflineUnits,
)
from lifsea_testbed.guest.operations import OperationsContainer
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.packages import Packages
from lifsea_testbed.guest.pending import PendingWork
from lifsea_testbed.guest.selinux import Selinux
from lifsea_testbed.guest.services import Services
from lifsea_testbed.guest.system import Clock, System
from lifsea_testbed.guest.units import Units
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.deadline import HARDWARE_SPEED, TimeScale
from lifsea_testbed.support.protocols import Shell

#: Makes an additional subject of a guest: from its shell and the profile that it is held to.
SubjectFactory = Callable[[Shell, Profile], object]


class Guest:
    """The subjects of one guest, each an object over its shell.

    `offline` gives the disk of an image without a shell: subjects then read from there what the disk holds, and
    everything else raises NotJudged, as the shell of such a machine does. `subjects` are those that plugins register.
    `time_scale` is that of waits within the guest; `own_files` returns the paths of programs that the test bed put
    there, which no search finds.
    """

    def __init__(self, shell: Shell, profile: Callable[[], Profile],
                 offline: Callable[[], OfflineTree] | None = None,
                 subjects: Mapping[str, SubjectFactory] = MappingProxyType({}),
                 time_scale: TimeScale = HARDWARE_SPEED, own_files: Callable[[], Sequence[str]] = tuple) -> None:
        self._shell = shell
        self._profile = profile
        self._offline = offline
        self._subjects = subjects
        self._time_scale = time_scale
        self._own_files = own_files

    def without_shell(self, offline: Callable[[], OfflineTree]) -> Guest:
        """Returns the same guest with subjects that read from its disk what the disk holds."""
        return Guest(self._shell, self._profile, offline, self._subjects, self._time_scale, self._own_files)

    def subject(self, name: str) -> object:
        """Returns the additional subject that a plugin registered under that name.

        Raises:
            CallerError: no plugin registered it.
        """
        if name not in self._subjects:
            raise CallerError(f"no plugin registers the guest subject {name!r}",
                              hint=f"registered are: {', '.join(sorted(self._subjects)) or 'none'}")  # fmt: skip
        return self._subjects[name](self._shell, self._profile())

    # What the image holds

    @functools.cached_property
    def files(self) -> Files:
        """The file system, and transfers."""
        own = self._own_files
        return OfflineFiles(self._shell, self._offline, own) if self._offline else Files(self._shell, own)

    @property
    def packages(self) -> Packages:
        """The installed packages."""
        databases = self._profile().packages.databases
        return OfflinePackages(self._shell, databases, self._offline) if self._offline \
            else Packages(self._shell, databases)  # fmt: skip

    @property
    def accounts(self) -> Accounts:
        """The accounts."""
        return OfflineAccounts(self._shell, self._offline) if self._offline else Accounts(self._shell)

    @property
    def deployments(self) -> Deployments:
        """The ostree deployments."""
        return OfflineDeployments(self._shell, self._offline) if self._offline else Deployments(self._shell)

    # The running system

    @property
    def system(self) -> System:
        """The system as a whole."""
        files = self._profile().nodes.differ
        return OfflineSystem(self._shell, files, self._offline) if self._offline else System(self._shell, files)

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        allowed = self._profile().boot.allowed_kernel_errors
        return OfflineKernel(self._shell, allowed, self._offline) if self._offline else Kernel(self._shell, allowed)

    @property
    def units(self) -> Units:
        """All units of systemd."""
        return OfflineUnits(self._shell, self._offline) if self._offline else Units(self._shell)

    @property
    def pending(self) -> PendingWork:
        """What is planned for later."""
        return PendingWork(self._shell)

    @property
    def selinux(self) -> Selinux:
        """SELinux."""
        return Selinux(self._shell)

    @property
    def services(self) -> Services:
        """Single services of systemd."""
        return Services(self._shell)

    @property
    def boot_times(self) -> BootTimes:
        """The times of the current boot."""
        return BootTimes(self._shell)

    @property
    def clock(self) -> Clock:
        """The system clock."""
        return Clock(self._shell)

    @property
    def network(self) -> GuestNetwork:
        """The network."""
        return GuestNetwork(self._shell, self._time_scale)

    @property
    def disks(self) -> Disks:
        """The virtio disks."""
        return Disks(self._shell)

    @property
    def hardware(self) -> VisibleHardware:
        """The hardware."""
        return VisibleHardware(self._shell)

    # Containers and pods

    @property
    def runtime(self) -> ContainerRuntime:
        """The container runtime."""
        profile = self._profile()
        return ContainerRuntime(self._shell, profile.cluster, profile.containers.escape)

    @property
    def kubelet(self) -> Kubelet:
        """The kubelet."""
        return Kubelet(self._shell, self._profile().cluster)

    @property
    def operations(self) -> OperationsContainer:
        """The operations container."""
        return OperationsContainer(self._shell, self._profile().operations)
