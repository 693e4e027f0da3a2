"""A test bed for images of container operating systems: everything that suites and users' own tests import.

The names in `__all__` are the public API (docs/api.md). Each is imported when it is first used, so that to import one
costs no more than that one. Modules below this one are internal and may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifsea_testbed.boottime.campaign import ColdBoots as ColdBoots
    from lifsea_testbed.cluster.cluster import Cluster as Cluster
    from lifsea_testbed.cluster.objects import InterruptedNode as InterruptedNode
    from lifsea_testbed.cluster.objects import JoinedNode as JoinedNode
    from lifsea_testbed.cluster.objects import PodRun as PodRun
    from lifsea_testbed.disk.image import Image as Image
    from lifsea_testbed.ecs import guest_hardware as guest_hardware
    from lifsea_testbed.ecs.instance import Instance as Instance
    from lifsea_testbed.ecs.metadata_faults import MetadataFaults as MetadataFaults
    from lifsea_testbed.errors import AnswersDiffer as AnswersDiffer
    from lifsea_testbed.errors import AnswerUnreadable as AnswerUnreadable
    from lifsea_testbed.errors import Blame as Blame
    from lifsea_testbed.errors import BootFailed as BootFailed
    from lifsea_testbed.errors import CallerError as CallerError
    from lifsea_testbed.errors import ChannelError as ChannelError
    from lifsea_testbed.errors import CommandFailed as CommandFailed
    from lifsea_testbed.errors import DiskDamaged as DiskDamaged
    from lifsea_testbed.errors import EmulatorFailed as EmulatorFailed
    from lifsea_testbed.errors import Explained as Explained
    from lifsea_testbed.errors import GuestCrashed as GuestCrashed
    from lifsea_testbed.errors import GuestFailure as GuestFailure
    from lifsea_testbed.errors import HostError as HostError
    from lifsea_testbed.errors import ImageRefused as ImageRefused
    from lifsea_testbed.errors import LaunchError as LaunchError
    from lifsea_testbed.errors import MachineStarved as MachineStarved
    from lifsea_testbed.errors import NotJudged as NotJudged
    from lifsea_testbed.errors import ProfileRefused as ProfileRefused
    from lifsea_testbed.errors import Reason as Reason
    from lifsea_testbed.errors import TestbedError as TestbedError
    from lifsea_testbed.errors import TimerLost as TimerLost
    from lifsea_testbed.errors import TimerStarved as TimerStarved
    from lifsea_testbed.errors import WaitTimedOut as WaitTimedOut
    from lifsea_testbed.guest.accounts import Accounts as Accounts
    from lifsea_testbed.guest.boot import BootTimes as BootTimes
    from lifsea_testbed.guest.cri import ContainerRuntime as ContainerRuntime
    from lifsea_testbed.guest.disks import Disks as Disks
    from lifsea_testbed.guest.files import Files as Files
    from lifsea_testbed.guest.guest import Guest as Guest
    from lifsea_testbed.guest.hardware import VisibleHardware as VisibleHardware
    from lifsea_testbed.guest.kernel import Kernel as Kernel
    from lifsea_testbed.guest.kubelet import Kubelet as Kubelet
    from lifsea_testbed.guest.network import GuestNetwork as GuestNetwork
    from lifsea_testbed.guest.operations import OperationsContainer as OperationsContainer
    from lifsea_testbed.guest.ostree import Deployments as Deployments
    from lifsea_testbed.guest.packages import Packages as Packages
    from lifsea_testbed.guest.pending import PendingWork as PendingWork
    from lifsea_testbed.guest.readiness import NotReady as NotReady
    from lifsea_testbed.guest.readiness import ReadinessLevel as ReadinessLevel
    from lifsea_testbed.guest.readiness import await_level as await_level
    from lifsea_testbed.guest.selinux import Selinux as Selinux
    from lifsea_testbed.guest.services import Services as Services
    from lifsea_testbed.guest.system import Clock as Clock
    from lifsea_testbed.guest.system import ClockTracking as ClockTracking
    from lifsea_testbed.guest.system import System as System
    from lifsea_testbed.guest.units import Units as Units
    from lifsea_testbed.machine.access import ConsoleAccess as ConsoleAccess
    from lifsea_testbed.machine.factory import InitialState as InitialState
    from lifsea_testbed.machine.factory import MachineFactory as MachineFactory
    from lifsea_testbed.machine.factory import MachineSpec as MachineSpec
    from lifsea_testbed.machine.fleet import Fleet as Fleet
    from lifsea_testbed.machine.fleet import FleetMaker as FleetMaker
    from lifsea_testbed.machine.machine import Machine as Machine
    from lifsea_testbed.machine.pool import MachinePool as MachinePool
    from lifsea_testbed.perf.metric import Measure as Measure
    from lifsea_testbed.plugin.items import claim as claim
    from lifsea_testbed.powercut.campaign import PowerCuts as PowerCuts
    from lifsea_testbed.profiles.profile import AccessMethod as AccessMethod
    from lifsea_testbed.profiles.profile import AccessSection as AccessSection
    from lifsea_testbed.profiles.profile import Profile as Profile
    from lifsea_testbed.profiles.profile import UpgradesSection as UpgradesSection
    from lifsea_testbed.profiles.profile import require as require
    from lifsea_testbed.report.document import Document as Document
    from lifsea_testbed.scenarios.basics import Rebooted as Rebooted
    from lifsea_testbed.scenarios.basics import RolledBack as RolledBack
    from lifsea_testbed.scenarios.basics import Twins as Twins
    from lifsea_testbed.scenarios.basics import Upgraded as Upgraded
    from lifsea_testbed.scenarios.cross_check import CrossCheck as CrossCheck
    from lifsea_testbed.scenarios.first_boot import ClockCorrection as ClockCorrection
    from lifsea_testbed.scenarios.first_boot import FirstBoot as FirstBoot
    from lifsea_testbed.scenarios.outages import Outages as Outages
    from lifsea_testbed.scenarios.static_pod import StaticPod as StaticPod
    from lifsea_testbed.scenarios.upgrade_paths import FaultInjection as FaultInjection
    from lifsea_testbed.scenarios.upgrade_paths import UpgradeChain as UpgradeChain
    from lifsea_testbed.support.deadline import Deadline as Deadline
    from lifsea_testbed.support.guest_paths import KEPT_IN_ETC as KEPT_IN_ETC
    from lifsea_testbed.support.guest_paths import KEPT_IN_HOME as KEPT_IN_HOME
    from lifsea_testbed.support.guest_paths import KEPT_IN_VAR as KEPT_IN_VAR
    from lifsea_testbed.support.guest_paths import MACHINE_ID as MACHINE_ID
    from lifsea_testbed.support.protocols import CommandResult as CommandResult
    from lifsea_testbed.support.protocols import Console as Console
    from lifsea_testbed.support.protocols import ConsoleLine as ConsoleLine
    from lifsea_testbed.support.protocols import Power as Power
    from lifsea_testbed.support.protocols import Shell as Shell
    from lifsea_testbed.upgrade.offer import Offer as Offer
    from lifsea_testbed.upgrade.tools import UpgradeTool as UpgradeTool

#: The module below this package that defines each public name.
_MODULES = {
    "AccessMethod": "profiles.profile", "AccessSection": "profiles.profile", "Accounts": "guest.accounts",
    "AnswerUnreadable": "errors", "AnswersDiffer": "errors", "Blame": "errors", "BootFailed": "errors",
    "BootTimes": "guest.boot", "CallerError": "errors", "ChannelError": "errors", "Clock": "guest.system",
    "ClockCorrection": "scenarios.first_boot", "ClockTracking": "guest.system", "Cluster": "cluster.cluster",
    "ColdBoots": "boottime.campaign", "CommandFailed": "errors", "CommandResult": "support.protocols",
    "Console": "support.protocols", "ConsoleAccess": "machine.access", "ConsoleLine": "support.protocols",
    "ContainerRuntime": "guest.cri", "CrossCheck": "scenarios.cross_check", "Deadline": "support.deadline",
    "Deployments": "guest.ostree", "DiskDamaged": "errors", "Disks": "guest.disks", "Document": "report.document",
    "EmulatorFailed": "errors", "Explained": "errors", "FaultInjection": "scenarios.upgrade_paths",
    "Files": "guest.files", "FirstBoot": "scenarios.first_boot", "Fleet": "machine.fleet",
    "FleetMaker": "machine.fleet", "Guest": "guest.guest", "GuestCrashed": "errors", "GuestFailure": "errors",
    "GuestNetwork": "guest.network", "HostError": "errors", "Image": "disk.image", "ImageRefused": "errors",
    "InitialState": "machine.factory", "Instance": "ecs.instance", "InterruptedNode": "cluster.objects",
    "JoinedNode": "cluster.objects", "KEPT_IN_ETC": "support.guest_paths", "KEPT_IN_HOME": "support.guest_paths",
    "KEPT_IN_VAR": "support.guest_paths", "Kernel": "guest.kernel", "Kubelet": "guest.kubelet", "LaunchError": "errors",
    "MACHINE_ID": "support.guest_paths", "Machine": "machine.machine", "MachineFactory": "machine.factory",
    "MachinePool": "machine.pool", "MachineSpec": "machine.factory", "MachineStarved": "errors",
    "Measure": "perf.metric", "MetadataFaults": "ecs.metadata_faults", "NotJudged": "errors",
    "NotReady": "guest.readiness", "Offer": "upgrade.offer", "OperationsContainer": "guest.operations",
    "Outages": "scenarios.outages", "Packages": "guest.packages", "PendingWork": "guest.pending",
    "PodRun": "cluster.objects", "Power": "support.protocols", "PowerCuts": "powercut.campaign",
    "Profile": "profiles.profile", "ProfileRefused": "errors", "ReadinessLevel": "guest.readiness", "Reason": "errors",
    "Rebooted": "scenarios.basics", "RolledBack": "scenarios.basics", "Selinux": "guest.selinux",
    "Services": "guest.services", "Shell": "support.protocols", "StaticPod": "scenarios.static_pod",
    "System": "guest.system", "TestbedError": "errors", "TimerLost": "errors", "TimerStarved": "errors",
    "Twins": "scenarios.basics", "Units": "guest.units", "UpgradeChain": "scenarios.upgrade_paths",
    "UpgradeTool": "upgrade.tools", "Upgraded": "scenarios.basics", "UpgradesSection": "profiles.profile",
    "VisibleHardware": "guest.hardware", "WaitTimedOut": "errors", "await_level": "guest.readiness",
    "claim": "plugin.items", "guest_hardware": "ecs.guest_hardware", "require": "profiles.profile",
}  # fmt: skip
__all__ = [
    "AccessMethod", "AccessSection", "Accounts", "AnswerUnreadable", "AnswersDiffer", "Blame", "BootFailed",
    "BootTimes", "CallerError", "ChannelError", "Clock", "ClockCorrection", "ClockTracking", "Cluster", "ColdBoots",
    "CommandFailed", "CommandResult", "Console", "ConsoleAccess", "ConsoleLine", "ContainerRuntime", "CrossCheck",
    "Deadline", "Deployments", "DiskDamaged", "Disks", "Document", "EmulatorFailed", "Explained", "FaultInjection",
    "Files", "FirstBoot", "Fleet", "FleetMaker", "Guest", "GuestCrashed", "GuestFailure", "GuestNetwork", "HostError",
    "Image", "ImageRefused", "InitialState", "Instance", "InterruptedNode", "JoinedNode", "KEPT_IN_ETC", "KEPT_IN_HOME",
    "KEPT_IN_VAR", "Kernel", "Kubelet", "LaunchError", "MACHINE_ID", "Machine", "MachineFactory", "MachinePool",
    "MachineSpec", "MachineStarved", "Measure", "MetadataFaults", "NotJudged", "NotReady", "Offer",
    "OperationsContainer", "Outages", "Packages", "PendingWork", "PodRun", "Power", "PowerCuts", "Profile",
    "ProfileRefused", "ReadinessLevel", "Reason", "Rebooted", "RolledBack", "Selinux", "Services", "Shell", "StaticPod",
    "System", "TestbedError", "TimerLost", "TimerStarved", "Twins", "Units", "UpgradeChain", "UpgradeTool", "Upgraded",
    "UpgradesSection", "VisibleHardware", "WaitTimedOut", "await_level", "claim", "guest_hardware", "require",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = globals()[name] = module if module.__name__.endswith(f".{name}") else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
