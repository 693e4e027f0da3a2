"""The operations container: off by default, started on demand, with every call in the audit log."""

from __future__ import annotations

from lifsea_testbed import Machine, claim


@claim("ops-container-off")
def test_the_operations_container_is_off(watched: Machine) -> None:
    """It does not run, since nobody started it, and no other container does."""
    assert not watched.guest.operations.is_running
    assert watched.guest.operations.contained() == []


@claim("ops-container-on-demand")
def test_the_operations_container_starts_and_stops(machine: Machine) -> None:
    """It runs after start, and not after stop, by its tool and by the kernel's list of processes."""
    machine.wait_until_ready()
    operations = machine.guest.operations
    operations.start()
    assert operations.is_running
    assert operations.contained() != []
    operations.stop()
    assert not operations.is_running
    assert operations.contained() == []


@claim("operations-audited")
def test_each_call_is_written_down(machine: Machine) -> None:
    """A call appends to the audit log, and removes nothing from it."""
    machine.wait_until_ready()
    operations = machine.guest.operations
    assert operations.is_running in (True, False)
    before = operations.audit_log()
    assert operations.is_running in (True, False)
    after = operations.audit_log()
    assert after[: len(before)] == before
    assert len(after) > len(before)
