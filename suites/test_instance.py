"""The machine looks like an ecs.g7 from inside: the test bed's model of the hardware, as the image sees it.

These tests judge no claim of the image: one that fails is broken, by the fault of the test bed.
"""

from __future__ import annotations

import pytest

from lifsea_testbed import Machine, NotJudged, Reason, guest_hardware

pytestmark = [pytest.mark.hardware_model, pytest.mark.shares_machine]

#: Two readings of a clock differ by less than this (s).
_READING = 5


def test_the_processor_is_of_the_model_sold(machine: Machine) -> None:
    """Name, vendor, family, model and stepping are those of a Xeon Platinum 8369B."""
    if not machine.fidelity.exact_model:
        raise NotJudged(f"the host's own processor shows through: {machine.guest.hardware.processor()}", Reason.HOST)
    assert machine.guest.hardware.processor() == guest_hardware.PROCESSOR


def test_the_processors_are_arranged_as_sold(machine: Machine) -> None:
    """There are as many as the type has, with two threads a core, in sockets as known of that type."""
    sold, seen = machine.instance.type, machine.guest.hardware.topology()
    assert machine.guest.hardware.processors() == sold.cpus
    assert seen.threads == sold.topology.threads
    if sold.inferred:
        raise NotJudged(f"no source for {sold.inferred}", Reason.PROFILE)
    assert seen == sold.topology


def test_the_processor_knows_that_it_is_virtual(machine: Machine) -> None:
    """Its features include the hypervisor bit, and no virtualisation of its own."""
    features = machine.guest.hardware.features()
    assert "hypervisor" in features
    assert features.isdisjoint(guest_hardware.HIDDEN_FEATURES)


def test_the_processor_does_what_an_ice_lake_does(machine: Machine) -> None:
    """It has AVX-512 and the other features that came with Ice Lake."""
    features = machine.guest.hardware.features()
    missing = guest_hardware.ICE_LAKE_FEATURES - features
    if missing and not machine.fidelity.all_features:
        raise NotJudged(f"neither emulation nor an older host has {', '.join(sorted(missing))}", Reason.HOST)
    assert missing == set()
    assert features.isdisjoint(guest_hardware.DISABLED_FEATURES)


def test_the_processor_is_affected_by_no_more_than_the_hosts(machine: Machine) -> None:
    """What the host is not affected by, Meltdown and MDS on an Ice Lake, the guest need not work around either."""
    if not machine.fidelity.all_features:
        raise NotJudged("only an Ice Lake's own model under KVM declares what it is not affected by", Reason.HOST)
    seen = machine.guest.hardware.vulnerabilities()
    assert {name: seen.get(name) for name in machine.fidelity.not_affected} == dict.fromkeys(
        machine.fidelity.not_affected, "Not affected")


def test_the_memory_is_as_sold(machine: Machine) -> None:
    """Firmware gives the kernel all the memory of the type, except for its own tables."""
    sold, given = machine.instance.type.memory, machine.fidelity.memory
    if given < sold:
        raise NotJudged(f"the host has {given} MiB to give, {machine.instance.type.name} has {sold} MiB", Reason.HOST)
    reserved = guest_hardware.firmware_memory(machine.instance)
    assert 0 <= sold - machine.guest.hardware.memory() < reserved


def test_the_firmware_says_who_made_it(machine: Machine) -> None:
    """The DMI strings are the cloud's, in tables of the cloud's version, and there is no baseboard."""
    dmi = machine.guest.hardware.dmi()
    expected = guest_hardware.dmi(machine.instance)
    assert {name: dmi.get(name) for name in expected} == expected
    assert not dmi.get("board_vendor")
    assert machine.guest.hardware.smbios_version() == guest_hardware.SMBIOS


def test_every_device_sits_in_its_slot(machine: Machine) -> None:
    """The PCI bus has an instance's devices and no others; virtio devices have transitional device IDs."""
    if not machine.fidelity.known_board:
        raise NotJudged("no source for the board of an instance with Secure Boot", Reason.PROFILE)
    assert machine.guest.hardware.pci_devices() == guest_hardware.pci(machine.instance)
    assert machine.guest.hardware.virtio_devices() == guest_hardware.virtio(machine.instance)


def test_the_disks_have_the_serial_numbers_of_the_instances(machine: Machine) -> None:
    """Each disk's serial number is its identifier without `d-`; the system disk is first."""
    assert list(machine.guest.disks.by_serial()) == machine.instance.disk_serials


def test_the_network_card_is_the_instances(machine: Machine) -> None:
    """There is one, in its slot, with the MAC address that the metadata service returns."""
    cards = machine.guest.hardware.network_cards()
    assert [(card.slot, card.mac, card.mtu) for card in cards] == [
        (guest_hardware.CARD_SLOT, machine.instance.mac, guest_hardware.MTU)
    ]


def test_the_network_card_has_its_queues(machine: Machine) -> None:
    """There are as many as the type has."""
    shown, sold = machine.fidelity.network_queues, machine.instance.type.queues
    if shown < sold:
        raise NotJudged(f"QEMU's user network has {shown} queue, {machine.instance.type.name} has {sold}", Reason.HOST)
    assert [card.queues for card in machine.guest.hardware.network_cards()] == [sold]


def test_the_consoles_are_where_the_cloud_has_them(machine: Machine) -> None:
    """ttyS0 is the first serial port of a PC, and Cloud Assistant finds its port by name."""
    assert machine.guest.hardware.console() == guest_hardware.CONSOLE
    assert guest_hardware.ASSISTANT_PORT in machine.guest.hardware.virtio_ports()


def test_the_hardware_clock_is_in_utc(machine: Machine) -> None:
    """Read as UTC, it shows the same time as the system's clock."""
    assert abs(machine.guest.hardware.clock_offset()) < _READING
