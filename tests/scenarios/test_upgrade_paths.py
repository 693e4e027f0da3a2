"""Upgrades under faults: a real ostree fails at each of them, names it, and succeeds when it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.scenarios import upgrade_paths
from lifsea_testbed.upgrade.offer import EDITED, Offer, make_offers
from lifsea_testbed.upgrade.repository import Repository, RepositoryFault
from lifsea_testbed.upgrade.tools import OstreeTool
from tests.support.ostree_host import Host, served


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("fault", [fault for fault in upgrade_paths.UPGRADE_FAULTS if not fault.full],
                         ids=lambda fault: fault.name)  # fmt: skip
def test_a_real_ostree_names_each_fault_and_recovers(host: Host, tmp_path: Path,
                                                     fault: upgrade_paths.UpgradeFault) -> None:
    repository = Repository(tmp_path / "served")
    with served(repository) as url:
        (offer,) = make_offers(host, tmp_path / "served", url, 1)
        repository.fault = fault.repository
        with pytest.raises(CommandFailed) as raised:
            OstreeTool(host).fetch(Offer(**{**vars(offer), "signed": fault.signed}))
        failed = upgrade_paths.FailedUpgrade(fault=fault, output=raised.value.evidence, boots_next="")
        assert failed.is_clear, raised.value.evidence
        repository.fault = RepositoryFault.NONE
        OstreeTool(host).fetch(offer)
    assert host.ostree("cat", offer.commit, EDITED.replace("/etc", "/usr/etc"))


@pytest.mark.parametrize(("output", "clear"), [("error: No space left on device", True), ("error: 42", False),
                                               (None, False)])  # fmt: skip
def test_a_failure_is_clear_if_the_output_names_the_fault(output: str | None, clear: bool) -> None:
    fault = next(fault for fault in upgrade_paths.UPGRADE_FAULTS if fault.full == "/boot")
    assert upgrade_paths.FailedUpgrade(fault=fault, output=output, boots_next="").is_clear is clear
