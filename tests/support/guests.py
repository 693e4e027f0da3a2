"""A fake guest with the subjects of the real one: each method returns a trait, or acts on the traits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from lifsea_testbed.guest.accounts import Accounts
from lifsea_testbed.guest.cri import ContainerRuntime, RuntimeStatus, Unavailable
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.hardware import VisibleHardware
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.kubelet import Kubelet
from lifsea_testbed.guest.network import GuestNetwork
from lifsea_testbed.guest.operations import OperationsContainer
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.packages import Package, Packages
from lifsea_testbed.guest.selinux import Selinux
from lifsea_testbed.guest.services import Services, ServiceState
from lifsea_testbed.guest.system import Clock, System
from lifsea_testbed.guest.units import Units
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.support import guest_paths
from lifsea_testbed.upgrade.offer import Offer


class FakeSubject:
    """Returns, for each method that the real subject has, the trait `NAME.METHOD`."""

    def __init__(self, name: str, real: type, traits: Mapping[str, Any]) -> None:
        self._name, self._real, self.traits = name, real, traits

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if not hasattr(self._real, method):
            raise AttributeError(f"{self._real.__name__} has no {method}")
        value = self.traits[f"{self._name}.{method}"]
        return lambda *_: value


class FakeFiles(FakeSubject):
    """Files that a machine with those traits has, and keeps."""

    def __init__(self, traits: dict[str, Any], profile: profiles.Profile) -> None:
        super().__init__("files", Files, traits)
        self.written: dict[str, str] = {}
        self._profile = profile
        self._digests = 0

    def digests(self, directory: str) -> list[str]:
        self._digests += 1
        return list(self.traits["usr_digests"] or [f"/usr/{self._digests}"])

    def writable_paths(self) -> list[str]:
        return sorted([*self._profile.paths.writable, *(self.traits["writable"] or [])])

    def write(self, path: str, text: str) -> None:
        self.written[path] = text

    def read(self, path: str) -> str | None:
        return self.written.get(path)


class FakeSystem(FakeSubject):
    """A system of the right version, whose identity may be that of others."""

    number = 0

    def os_release(self) -> dict[str, str]:
        return {"VERSION_ID": "3.3.0"}

    def identity(self) -> dict[str, str]:
        if self.traits["identity"] is None:
            return {}
        self.number += bool(self.traits["identity"])
        return {guest_paths.MACHINE_ID: str(self.number)}


class FakeKernel(FakeSubject):
    """A kernel whose settings are those of the profile, unless the traits have others."""

    def sysctls(self, names: dict[str, Any]) -> dict[str, Any]:
        return dict(names) if self.traits["sysctls"] is None else dict(self.traits["sysctls"])


class FakeUnits(FakeSubject):
    """Many units, or those of the traits."""

    def named(self, pattern: str) -> list[str]:
        many = [f"{number}.service" for number in range(self.traits["units_many"])]
        return many if pattern == ".*" else list(self.traits["units"])


class FakePackages(FakeSubject):
    """As many packages as the traits have."""

    def installed(self) -> list[Package]:
        return [Package(name=str(number), version="1") for number in range(self.traits["packages"])]


class FakeDisks(FakeSubject):
    """A system disk with the space of the traits."""

    def root(self) -> SimpleNamespace:
        return SimpleNamespace(unused=self.traits["unused"], filled=self.traits["filled"])


class FakeOperations(FakeSubject):
    """The operations container with its audit log."""

    def __init__(self, traits: dict[str, Any]) -> None:
        super().__init__("operations", OperationsContainer, traits)
        self._running = traits["operations_at_start"]
        self._log = ["old entry"]

    @property
    def is_running(self) -> bool | None:
        self._log = {"append": [*self._log, "status"], "none": self._log, "overwrite": ["status"] * 3}[
            self.traits["audit"]
        ]
        return self._running  # type: ignore[no-any-return]

    def contained(self) -> list[str]:
        inside = self.traits["operations_inside"]
        return ["/proc/7/root/"] if (self._running if inside is None else inside) else []

    def start(self) -> None:
        self._running = self.traits["operations_start"]

    def stop(self) -> None:
        self._running = not self.traits["operations_stop"]

    def audit_log(self) -> list[str]:
        return list(self._log)


class FakeDeployments(FakeSubject):
    """The old image and the new one; `commit` is the booted one."""

    def __init__(self, traits: dict[str, Any]) -> None:
        super().__init__("deployments", Deployments, traits)
        self.commit, self.next = "old", "old"

    def booted(self) -> SimpleNamespace:
        return SimpleNamespace(commit=self.commit, version=self.traits["version"])

    def all(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(commit=self.commit if self.traits["next_boot"] == "booted" else "other",
                                version=self.traits["version"])]  # fmt: skip

    def missing_defaults(self) -> list[str]:
        return [] if self.traits["merges"] else ["/etc/new"]


class FakeUpgradeTool:
    """The tool by which such a machine is upgraded from the old image to the new one."""

    def __init__(self, deployments: FakeDeployments) -> None:
        self._deployments = deployments

    def running(self) -> str:
        return self._deployments.commit

    def boots_next(self) -> str:
        return self._deployments.next

    def name_of(self, offer: Offer) -> str:
        return offer.commit

    def apply(self, offer: Offer) -> str:
        self._deployments.next = offer.commit if self._deployments.traits["deploys"] else self._deployments.next
        return ""

    def roll_back(self) -> None:
        if self._deployments.traits["rolls_back"]:
            self._deployments.next = "old"


class FakeRuntime(FakeSubject):
    """The container runtime of such a node; it may not answer."""

    def status(self) -> RuntimeStatus:
        if self.traits["runtime"] is None:
            raise Unavailable("no CRI at /run/containerd/containerd.sock: nothing answers")
        return cast(RuntimeStatus, self.traits["runtime"])


class FakeServices(FakeSubject):
    """Services that all run, or all do not."""

    def state(self, unit: str) -> ServiceState:
        state = "active (running)" if self.traits["runs"] else "activating (auto-restart)"
        return ServiceState(name=unit, state=state, process=7, restarts=3)

    def last_error(self, unit: str, about: str = "") -> str:
        return "failed to load Kubelet config file"

    def journal(self, unit: str) -> str:
        return f"the journal of {unit}"


class FakeGuest:
    """The subjects of a machine with those traits."""

    def __init__(self, traits: dict[str, Any], profile: profiles.Profile) -> None:
        self._traits = traits
        self.files = FakeFiles(traits, profile)
        self.packages = FakePackages("packages", Packages, traits)
        self.accounts = FakeSubject("accounts", Accounts, traits)
        self.deployments = FakeDeployments(traits)
        self.system = FakeSystem("system", System, traits)
        self.kernel = FakeKernel("kernel", Kernel, traits)
        self.units = FakeUnits("units", Units, traits)
        self.selinux = FakeSubject("selinux", Selinux, traits)
        self.services = FakeServices("services", Services, traits)
        self.clock = FakeSubject("clock", Clock, traits)
        self.network = FakeSubject("network", GuestNetwork, traits)
        self.disks = FakeDisks("disks", Disks, traits)
        self.hardware = FakeSubject("hardware", VisibleHardware, traits)
        self.runtime = FakeRuntime("runtime", ContainerRuntime, traits)
        self.kubelet = FakeSubject("kubelet", Kubelet, traits)
        self.operations = FakeOperations(traits)

    def reboot(self) -> None:
        deployments, traits = self.deployments, self._traits
        changed, deployments.commit = deployments.commit != deployments.next, deployments.next
        forgotten = {
            "/etc": not traits["kept"] or (changed and not traits["keeps_etc"]),
            "/var": changed and not traits["keeps_var"],
        }
        forgotten["/etc"] |= changed and deployments.commit == "old" and not traits["keeps_old_etc"]
        self.system.number -= bool(traits["keeps_identity"])
        self.files.written = {path: text for path, text in self.files.written.items() if not forgotten.get(path[:4])}
