"""Every assertion of the suites can fail: a sound fake machine passes, and each of its defects is found."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.boottime.campaign import ColdBoots
from lifsea_testbed.ecs import guest_hardware, instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import AnswersDiffer, NotJudged
from lifsea_testbed.guest.cross_checked import CrossCheckedGuest
from lifsea_testbed.guest.hardware import NetworkCard
from lifsea_testbed.machine.fidelity import HardwareFidelity
from lifsea_testbed.perf.metric import Measure
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.scenarios import basics
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.upgrade.offer import Offer
from tests.support import SUITES, first_boots, journeys, pods
from tests.support.boots import KVM, TCG, boot
from tests.support.guests import FakeGuest, FakeUpgradeTool

TESTS: dict[str, Callable[..., None]] = {
    name: test
    for path in SUITES.glob("test_*.py")
    for name, test in inspect.getmembers(importlib.import_module(f"suites.{path.stem}"), inspect.isfunction)
    if name.startswith("test_")
}
INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))
LARGEST = instance_types.find("ecs.g7.32xlarge")
CARD = NetworkCard(slot="05.0", name="eth0", mac=INSTANCE.mac, queues=2, mtu=1500)
NEXT = Offer(url="http://mirror/", branch="next", commit="new", version="3.3.1")
SOUND: dict[str, Any] = {
    "type": INSTANCE.type,
    "accounts.automatic_logins": [], "accounts.with_password": [], "accounts.without_password": [],
    "clock.time_sources": ["t1", "t2"],
    "deployments.changed_files": [], "deployments.repository_damage": [],
    "disks.writable_mounts_outside": [], "disks.by_serial": {INSTANCE.disk_serial: "vda"},
    "files.accepted_writes_outside": [], "files.executables_holding": [], "files.executables_named": [],
    "files.holding": [], "files.missing": [], "files.programs_holding": [],
    "files.file_system_of": "tmpfs", "files.link_target": "/var/x", "files.matching": [], "files.setuid": [],
    "hardware.clock_offset": 0, "hardware.console": guest_hardware.CONSOLE,
    "hardware.dmi": guest_hardware.dmi(INSTANCE),
    "hardware.features": {"hypervisor", *guest_hardware.ICE_LAKE_FEATURES}, "hardware.memory": 8191,
    "hardware.network_cards": [CARD], "hardware.pci_devices": guest_hardware.PCI,
    "hardware.processor": guest_hardware.PROCESSOR, "hardware.processors": 2, "hardware.smbios_version": "2.8",
    "hardware.topology": INSTANCE.type.topology, "hardware.virtio_devices": guest_hardware.VIRTIO,
    "hardware.virtio_ports": [guest_hardware.ASSISTANT_PORT],
    "hardware.vulnerabilities": {"meltdown": "Not affected", "mds": "Not affected", "spectre_v2": "Mitigation: IBRS"},
    "kernel.crashes_and_denials": [], "kernel.errors": [], "kernel.initramfs_signs": [], "kernel.loaded_modules": [],
    "kernel.memory_used": 200 << 20, "kernel.uptime": 60.0,
    "kubelet.health": "ok", "kubelet.imposters": [],
    "network.ssh_listeners": [], "network.unlisted_ports": [],
    "packages.named": [], "packages.writable_databases": [], "selinux.deviations": [],
    "runtime.containerd_version": "1.7", "runtime.cri_plugin_state": "ok", "runtime.escaped_writes": [],
    "system.has_posix_shell": True, "system.host_name": "iZtestZ", "system.udev_rules": [],
    "system.user_data_runs": ["0"],
    "units.has_bus_name": False, "units.failed": [], "units.restarted": [],
    # Traits that several subjects share, or that one acts on.
    "units": [], "units_many": 9, "packages": 190, "unused": 0, "filled": 0.98, "sysctls": None,
    "operations_at_start": False, "operations_start": True, "operations_stop": True, "audit": "append",
    "operations_inside": None, "system.lacking_identity": [],
    "writable": None, "usr_digests": ["/usr/bin/sh"], "identity": True, "asks_again": [], "keeps_identity": True,
    "kept": True, "next_boot": "booted", "deploys": True, "merges": True, "version": "3.3.0", "rolls_back": True,
    "keeps_old_etc": True, "keeps_etc": True, "keeps_var": True,
    # Traits of the machine around the guest.
    "fits": True, "boot": 1.9, "memory_given": 8192, "queues_shown": 2, "board_known": True,
    **journeys.SOUND, **pods.SOUND, **first_boots.SOUND,
}  # fmt: skip
#: A sound machine of another kind, for the tests that such a one has to pass.
SOUND_FOR: dict[str, dict[str, Any]] = {"test_there_is_no_posix_shell": {"system.has_posix_shell": False}}
#: For each test, the defects of a machine that it has to find, one at least for each of its assertions.
DEFECTS: dict[str, list[dict[str, Any]]] = {
    **journeys.DEFECTS, **pods.DEFECTS, **first_boots.DEFECTS,
    "test_there_is_no_ssh_server": [{"files.executables_named": ["/usr/sbin/sshd"]}, {"units": ["sshd.service"]}],
    "test_no_program_is_an_ssh_server_under_another_name": [{"files.executables_holding": ["/usr/bin/helper"]}],
    "test_there_is_no_host_key": [
        {"files.matching": ["/etc/ssh/ssh_host_rsa_key"]}, {"files.holding": ["/usr/share/lifsea/seed"]},
    ],
    "test_only_known_programs_take_what_comes": [{"network.unlisted_ports": ["tcp 0.0.0.0:31337 socat"]}],
    "test_only_known_files_give_privileges": [{"files.setuid": ["/usr/bin/find"]}],
    "test_the_kernel_is_set_as_promised": [{"sysctls": {}}],
    "test_nothing_fails_after_the_boot": [
        {"units.failed": ["late.service"]}, {"units.restarted": ["loop.service"]},
        {"kernel.crashes_and_denials": ["segfault at 0"]},
    ],
    "test_there_are_few_units": [{"units_many": 500}],
    "test_there_are_few_udev_rules": [{"system.udev_rules": ["x"] * 900}],
    "test_the_image_is_small": [{"fits": False}],
    "test_a_single_package_cannot_be_installed": [{"packages.writable_databases": ["/var/lib/dpkg"]}],
    "test_a_privileged_container_cannot_write_to_the_image": [{"runtime.escaped_writes": ["/usr"]}],
    "test_usr_is_the_commits_byte_for_byte": [{"deployments.changed_files": ["M /usr/bin/sh"]}],
    "test_the_whole_image_has_one_version": [{"version": "3.3.1"}, {"version": ""}],
    "test_two_machines_hold_the_same": [{"usr_digests": None}],
    "test_two_machines_can_be_told_apart": [
        {"identity": False}, {"identity": None}, {"system.lacking_identity": ["/var/lib/systemd/random-seed"]},
    ],
    "test_the_second_boot_asks_for_no_user_data": [
        {"asks_again": ["/latest/user-data"]}, {"asks_again": ["/2016-01-01//user%2Ddata?x=1"]},
        {"asks_again": ["/latest/user-data/"]}, {"keeps_identity": False},
    ],
    "test_etc_and_var_are_kept_across_upgrade_and_rollback": [{"keeps_etc": False}, {"keeps_old_etc": False}],
    "test_nothing_speaks_ssh": [{"network.ssh_listeners": [22]}],
    "test_no_account_has_a_password": [{"accounts.with_password": ["root"]}],
    "test_no_account_is_opened_without_a_password": [{"accounts.without_password": ["login (pam_permit)"]}],
    "test_nobody_is_logged_in_without_asking": [{"accounts.automatic_logins": ["/proc/7/cmdline"]}],
    "test_every_unit_is_up": [{"units.failed": ["kubelet.service"]}],
    "test_first_boot_is_as_quick_as_promised": [{"boot": 2.1}],
    "test_nothing_loads_an_initramfs": [{"kernel.initramfs_signs": ["initrd /x"]}],
    "test_no_virtio_or_ext4_module_is_loaded": [
        {"kernel.loaded_modules": ["virtio_blk"]}, {"kernel.loaded_modules": ["ext4"]},
    ],
    "test_no_such_module_is_on_the_disk": [{"files.matching": ["/usr/lib/modules/6.1/virtio_net.ko.xz"]}],
    "test_the_kernel_reports_no_error": [{"kernel.errors": ["EXT4-fs error"]}],
    "test_there_are_about_200_packages": [{"packages": 500}, {"packages": 20}],
    "test_there_is_no_python": [
        {"files.executables_named": ["/usr/bin/python3"]}, {"files.executables_holding": ["/usr/libexec/helper"]},
        {"files.matching": ["/usr/lib/x/_collections_abc.pyc"]},
    ],
    "test_there_is_no_other_interpreter": [
        {"files.executables_named": ["/usr/bin/perl"]}, {"files.executables_holding": ["/usr/bin/awk2"]},
        {"files.matching": ["/usr/lib/libperl.so.5.40"]},
    ],
    "test_there_is_no_package_manager": [
        {"files.executables_named": ["/usr/bin/yum"]}, {"files.executables_holding": ["/usr/bin/pkg"]},
    ],
    "test_there_is_no_debug_tool": [
        {"files.executables_named": ["/usr/bin/strace"]}, {"files.executables_holding": ["/usr/libexec/netd"]},
    ],
    "test_no_package_brings_a_debug_tool": [{"packages.named": ["tcpdump"]}],
    "test_selinux_is_in_the_promised_mode": [{"selinux.deviations": ["kernel: permissive"]}],
    "test_a_posix_shell_is_kept": [{"system.has_posix_shell": False}],
    "test_there_is_no_posix_shell": [
        {"system.has_posix_shell": True},
        {"system.has_posix_shell": False, "files.executables_named": ["/usr/libexec/ash"]},
        {"system.has_posix_shell": False, "files.programs_holding": ["/usr/libexec/helper"]},
    ],
    "test_there_is_no_logind": [
        {"units": ["systemd-logind.service"]}, {"files.executables_named": ["systemd-logind"]},
        {"units.has_bus_name": True},
    ],
    "test_there_is_no_resolved": [
        {"units": ["systemd-resolved.service"]}, {"files.executables_named": ["systemd-resolved"]},
        {"units.has_bus_name": True},
    ],
    "test_the_root_file_system_fills_the_disk": [{"unused": 1 << 30}, {"filled": 0.3}],
    "test_the_host_name_is_the_instances": [{"system.host_name": "localhost"}],
    "test_chrony_asks_the_clouds_time_servers": [{"clock.time_sources": ["t1"]}],
    "test_user_data_runs_once_as_root": [{"system.user_data_runs": ["0", "0"]}, {"system.user_data_runs": ["1000"]}],
    "test_containerd_answers": [{"runtime.cri_plugin_state": "error"}],
    "test_the_operations_container_is_off": [{"operations_at_start": True}, {"operations_inside": True}],
    "test_the_operations_container_starts_and_stops": [
        {"operations_start": False}, {"operations_stop": False}, {"operations_inside": True},
        {"operations_inside": False},
    ],
    "test_each_call_is_written_down": [
        {"audit": "none"}, {"audit": "overwrite"}, {"operations_at_start": None}, {"operations_at_start": None},
    ],
    "test_only_the_promised_paths_are_writable": [{"writable": ["/usr"]}],
    "test_no_other_file_system_is_writable": [{"disks.writable_mounts_outside": ["/usr"]}],
    "test_a_write_outside_is_refused": [{"files.accepted_writes_outside": ["/usr"]}, {"files.missing": ["/usr/etc"]}],
    "test_the_changing_paths_lead_into_var": [{"files.link_target": "/home"}],
    "test_the_passing_paths_lie_in_memory": [{"files.file_system_of": "ext2/ext3"}],
    "test_etc_and_var_are_kept_across_a_reboot": [{"kept": False}],
    "test_the_running_system_is_the_deployed_commit": [
        {"next_boot": "other"}, {"deployments.repository_damage": ["corrupt object"]},
    ],
    "test_the_next_image_boots_with_etc_merged_and_var_kept": [
        {"deploys": False}, {"merges": False}, {"keeps_etc": False}, {"keeps_var": False},
    ],
    "test_the_processor_is_of_the_model_sold": [
        {"hardware.processor": dataclasses.replace(guest_hardware.PROCESSOR, model=85)},
    ],
    "test_the_processors_are_arranged_as_sold": [
        {"hardware.processors": 1}, {"hardware.topology": instance_types.Topology(sockets=1, cores=2, threads=1)},
        {"hardware.topology": instance_types.Topology(sockets=2, cores=1, threads=2)},
    ],
    "test_the_processor_knows_that_it_is_virtual": [
        {"hardware.features": set()}, {"hardware.features": {"hypervisor", "vmx"}},
    ],
    "test_the_processor_does_what_an_ice_lake_does": [
        {"hardware.features": {"avx512f"}}, {"hardware.features": {*guest_hardware.ICE_LAKE_FEATURES, "rtm"}},
    ],
    "test_the_processor_is_affected_by_no_more_than_the_hosts": [
        {"hardware.vulnerabilities": {"meltdown": "Mitigation: PTI", "mds": "Not affected"}},
        {"hardware.vulnerabilities": {"mds": "Not affected"}},
    ],
    "test_the_memory_is_as_sold": [{"hardware.memory": 8180}, {"hardware.memory": 8193}],
    "test_the_firmware_says_who_made_it": [
        {"hardware.dmi": {}}, {"hardware.dmi": {**guest_hardware.dmi(INSTANCE), "board_vendor": "Intel"}},
        {"hardware.dmi": guest_hardware.dmi(dataclasses.replace(INSTANCE, firmware=Firmware.UEFI))},
        {"hardware.smbios_version": "3.0"},
    ],
    "test_every_device_sits_in_its_slot": [
        {"hardware.pci_devices": {**guest_hardware.PCI, "07.0": guest_hardware.PCI["00.0"]}},
        {"hardware.virtio_devices": {}},
    ],
    "test_the_disks_have_the_serial_numbers_of_the_instances": [{"disks.by_serial": {"": "vda"}}],
    "test_the_network_card_is_the_instances": [
        {"hardware.network_cards": []},
        {"hardware.network_cards": [dataclasses.replace(CARD, mac="52:54:00:12:34:56")]},
    ],
    "test_the_network_card_has_its_queues": [{"hardware.network_cards": [dataclasses.replace(CARD, queues=1)]}],
    "test_the_consoles_are_where_the_cloud_has_them": [{"hardware.console": None}, {"hardware.virtio_ports": []}],
    "test_the_hardware_clock_is_in_utc": [{"hardware.clock_offset": 28800}, {"hardware.clock_offset": -28800}],
    "test_the_old_image_boots_again": [{"rolls_back": False}, {"keeps_var": False}],
}  # fmt: skip


class FakeMachine:
    """As much of a machine as the suites use."""

    def __init__(self, defect: dict[str, Any], profile: profiles.Profile, *, emulated: bool = False) -> None:
        traits = {**SOUND, **defect}
        self.guest = FakeGuest(traits, profile)
        self.instance = SimpleNamespace(
            id="i-test", host_name="iZtestZ", type=traits["type"], mac=INSTANCE.mac, uuid=INSTANCE.uuid,
            firmware=INSTANCE.firmware, disk_serials=INSTANCE.disk_serials, data_disk=0, time_servers=("t1", "t2"),
        )  # fmt: skip
        self.fidelity = HardwareFidelity(
            hardware_speed=not emulated, all_features=not emulated, exact_model=not emulated,
            not_affected=frozenset({"meltdown", "mds"}), memory=traits["memory_given"],
            network_queues=traits["queues_shown"], known_board=traits["board_known"])  # fmt: skip
        self.requests: list[Any] = []
        self.recording_time = 0.0
        self.boot = SimpleNamespace(bytes_written=0)
        self._asks = [SimpleNamespace(path=path) for path in traits["asks_again"]]

    def wait_until_ready(self) -> None:
        """It is."""

    def wait_until(self, question: Callable[[], Any], what: str, *, within: float, every: float = 1.0) -> Any:
        return question()

    def reboot(self) -> None:
        self.requests += self._asks
        self.guest.reboot()


def run(name: str, defect: dict[str, Any], *, emulated: bool = False) -> None:
    profile = profiles.load("reference")
    machine = FakeMachine(defect, profile, emulated=emulated)
    image = SimpleNamespace(fits_into=lambda size: {**SOUND, **defect}["fits"], file_size=1 << 28)
    offered: dict[str, Any] = {
        "machine": machine, "booted": machine, "watched": machine, "own_machine": machine, "profile": profile,
        "measure": Measure(), "bench": SimpleNamespace(image=image), **journeys.offered({**SOUND, **defect}),
    }  # fmt: skip
    disk: Any = FakeGuest({**SOUND, **defect, **defect.get("disk", {})}, profile)
    offered["cross_check"] = lambda one: CrossCheckedGuest(one.guest, disk, lambda answered: None)
    offered |= first_boots.offered({**SOUND, **defect}, machine)
    offered |= pods.offered({**SOUND, **defect}, machine, profile.paths.writable)
    seen = [boot(took={**SOUND, **defect}["boot"], counted=False)] * 3
    offered["cold_boots"] = ColdBoots(seen=seen, accelerator=TCG if emulated else KVM)
    wanted = inspect.signature(TESTS[name]).parameters
    anything: Any = machine
    if "twins" in wanted:
        offered["twins"] = basics.compare(anything, anything)
    if "rebooted" in wanted:
        offered["rebooted"] = basics.reboot(anything)
    if "upgraded" in wanted:
        offered["upgraded"] = basics.upgrade(anything, FakeUpgradeTool(machine.guest.deployments), NEXT)
    if "rolled_back" in wanted:
        offered["rolled_back"] = basics.roll_back(offered["upgraded"])
    TESTS[name](**{parameter: offered[parameter] for parameter in wanted})


def assertions(name: str) -> int:
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(inspect.getsource(TESTS[name]))))


def test_every_figure_of_the_suites_is_documented() -> None:
    page = (SUITES.parent / "docs/dashboard.md").read_text("utf-8")
    calls = [call for path in SUITES.glob("test_*.py") for call in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(call, ast.Call) and ast.unparse(call.func) == "measure"]  # fmt: skip
    names = [ast.literal_eval(call.args[0]) for call in calls]
    assert len(names) >= 7 and [name for name in names if f"`{name}`" not in page] == []


def test_every_test_of_the_suites_is_tried() -> None:
    assert set(DEFECTS) == set(TESTS)
    assert [name for name, defects in DEFECTS.items() if len(defects) < assertions(name)] == []


@pytest.mark.parametrize("name", sorted(TESTS))
def test_a_sound_machine_passes(name: str) -> None:
    run(name, SOUND_FOR.get(name, {}))


@pytest.mark.parametrize(("name", "defect"), [(name, defect) for name in sorted(DEFECTS) for defect in DEFECTS[name]])
def test_a_defect_is_found(name: str, defect: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        run(name, defect)


@pytest.mark.parametrize(("name", "on_disk"), [
    ("test_there_is_no_ssh_server", {"files.executables_named": ["/usr/sbin/sshd"]}),
    ("test_there_is_no_ssh_server", {"units": ["ssh.socket"]}),
    ("test_no_program_is_an_ssh_server_under_another_name", {"files.executables_holding": ["/usr/libexec/x"]}),
    ("test_there_is_no_host_key", {"files.matching": ["/etc/ssh/ssh_host_rsa_key"]}),
    ("test_there_is_no_host_key", {"files.holding": ["/usr/share/seed"]}),
    ("test_only_known_files_give_privileges", {"files.setuid": ["/usr/bin/find"]}),
    ("test_no_account_has_a_password", {"accounts.with_password": ["root"]}),
    ("test_no_account_is_opened_without_a_password", {"accounts.without_password": ["login (pam_permit)"]}),
    ("test_nothing_loads_an_initramfs", {"kernel.initramfs_signs": ["/boot/x.conf:initrd /i"]}),
    ("test_no_such_module_is_on_the_disk", {"files.matching": ["/usr/lib/modules/6.1/ext4.ko"]}),
    ("test_there_are_few_units", {"units_many": 10}),
    ("test_there_are_few_udev_rules", {"system.udev_rules": ["hidden"]}),
    ("test_there_are_about_200_packages", {"packages": 191}), ("test_there_are_about_200_packages", {"packages": 189}),
    ("test_there_is_no_python", {"files.executables_named": ["/usr/bin/python3"]}),
    ("test_there_is_no_python", {"files.executables_holding": ["/usr/libexec/helper"]}),
    ("test_there_is_no_python", {"files.matching": ["/usr/lib/x/_collections_abc.pyc"]}),
    ("test_there_is_no_other_interpreter", {"files.executables_named": ["/usr/bin/perl"]}),
    ("test_there_is_no_other_interpreter", {"files.executables_holding": ["/usr/bin/awk2"]}),
    ("test_there_is_no_other_interpreter", {"files.matching": ["/usr/lib/libperl.so.5.40"]}),
    ("test_there_is_no_package_manager", {"files.executables_named": ["/usr/bin/yum"]}),
    ("test_there_is_no_package_manager", {"files.executables_holding": ["/usr/bin/pkg"]}),
    ("test_there_is_no_debug_tool", {"files.executables_named": ["/usr/bin/strace"]}),
    ("test_there_is_no_debug_tool", {"files.executables_holding": ["/usr/libexec/netd"]}),
    ("test_no_package_brings_a_debug_tool", {"packages.named": ["tcpdump"]}),
    ("test_a_posix_shell_is_kept", {"system.has_posix_shell": False}),
    ("test_there_is_no_posix_shell", {"system.has_posix_shell": True}),
    ("test_there_is_no_posix_shell", {"files.executables_named": ["/usr/libexec/ash"]}),
    ("test_there_is_no_posix_shell", {"files.programs_holding": ["/usr/libexec/helper"]}),
    ("test_there_is_no_logind", {"units": ["systemd-logind.service"]}),
    ("test_there_is_no_logind", {"files.executables_named": ["systemd-logind"]}),
    ("test_there_is_no_resolved", {"units": ["systemd-resolved.service"]}),
    ("test_there_is_no_resolved", {"files.executables_named": ["systemd-resolved"]}),
    ("test_usr_is_the_commits_byte_for_byte", {"deployments.changed_files": ["M /usr/bin/sh"]}),
    ("test_the_changing_paths_lead_into_var", {"files.link_target": "/home"}),
])  # fmt: skip
def test_what_a_guest_hides_and_its_disk_shows_is_found(name: str, on_disk: dict[str, Any]) -> None:
    with pytest.raises(AnswersDiffer, match="guest and disk disagree"):
        run(name, {**SOUND_FOR.get(name, {}), "disk": on_disk})


@pytest.mark.parametrize(("name", "lack", "reason"), [
    ("test_first_boot_is_as_quick_as_promised", {}, "emulated"),
    ("test_the_processor_is_of_the_model_sold", {}, "the host's own processor"),
    ("test_the_processor_does_what_an_ice_lake_does", {"hardware.features": {"avx512f"}}, "gfni"),
    ("test_the_processor_is_affected_by_no_more_than_the_hosts", {}, "only an Ice Lake's own model"),
    ("test_the_processors_are_arranged_as_sold", {"type": LARGEST, "hardware.processors": 128}, "sockets of an .*, 2"),
    ("test_the_memory_is_as_sold", {"memory_given": 4096}, "4096 MiB to give, ecs.g7.large has 8192"),
    ("test_the_network_card_has_its_queues", {"queues_shown": 1}, "1 queue, ecs.g7.large has 2"),
    ("test_every_device_sits_in_its_slot", {"board_known": False}, "no source for the board"),
    ("test_every_power_cut_boots_old_or_new", {"disks_left": 7}, "left out upgrade: 7 of 20 disks"),
    ("test_every_power_cut_boots_old_or_new", {"disks_unconfirmed": 3}, "and 3 confirmations"),
])  # fmt: skip
def test_what_the_host_cannot_show_is_not_judged(name: str, lack: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotJudged, match=reason):
        run(name, lack, emulated=True)
