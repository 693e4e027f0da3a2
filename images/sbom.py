"""The bill of materials of an image: SPDX 2.3 in JSON, the same for the same image."""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from spdx_tools.common.spdx_licensing import spdx_licensing
from spdx_tools.spdx.model.actor import Actor, ActorType
from spdx_tools.spdx.model.checksum import Checksum, ChecksumAlgorithm
from spdx_tools.spdx.model.document import CreationInfo, Document
from spdx_tools.spdx.model.package import (
    ExternalPackageRef,
    ExternalPackageRefCategory,
    Package,
    PackagePurpose,
)
from spdx_tools.spdx.model.relationship import Relationship, RelationshipType
from spdx_tools.spdx.model.spdx_no_assertion import SpdxNoAssertion
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from spdx_tools.spdx.writer.json.json_writer import write_document_to_stream

from images.contents import Contents, DebianPackage, GoProgram, Program
from images.errors import BuildError
from images.fetched import Fetched
from images.tree import EPOCH

_DOCUMENT = "SPDXRef-DOCUMENT"
_NONE = SpdxNoAssertion()
_MAINTAINER = re.compile(r"([^<]+?) ?<([^>]+)>$")


def write(path: Path, name: str, image: Path, contents: Contents) -> None:
    """Writes the bill of materials of the image.

    Raises:
        BuildError: it would not be valid.
    """
    document = make(name, image, contents)
    if complaints := validate_full_spdx_document(document):
        raise BuildError(f"{path.name}: {complaints[0].validation_message}")
    write_document_to_stream(document, text := io.StringIO(), validate=False)
    # The library writes the name that SPDX 2.2 has for it.
    path.write_text(text.getvalue().replace('"PACKAGE_MANAGER"', '"PACKAGE-MANAGER"') + "\n", "utf-8")


def make(name: str, image: Path, contents: Contents) -> Document:
    """Returns the document: the image, and the packages, programs and Go modules that it contains."""
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made = _Made(contents.release, contents.debian)
    made.add_image(name, digest)
    for package in contents.packages:
        made.add_debian(package)
    for program in contents.programs:
        made.add_program(program)
    for go in contents.go:
        made.add_go(go)
    information = CreationInfo(
        spdx_version="SPDX-2.3", spdx_id=_DOCUMENT, name=name, data_license="CC0-1.0",
        document_namespace=uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {digest}").urn,
        created=datetime.fromtimestamp(int(EPOCH), UTC), creators=[Actor(ActorType.TOOL, "lifsea-testbed-images")],
    )  # fmt: skip
    return Document(information, packages=made.packages, relationships=made.relationships)


class _Made:
    """The packages of a document and how they relate; the first is the image, which contains the others."""

    def __init__(self, release: dict[str, str], debian: str) -> None:
        self.packages: list[Package] = []
        self.relationships: list[Relationship] = []
        self._release = release
        self._distribution = f"&distro=debian-{debian.partition('.')[0]}" if debian else ""

    def add_image(self, name: str, digest: str) -> None:
        image = self._add("image", name, version=self._release.get("VERSION_ID", ""), sha256=digest,
                          file_name=f"{name}.qcow2")  # fmt: skip
        self._relate(_DOCUMENT, RelationshipType.DESCRIBES, image)

    def add_debian(self, package: DebianPackage) -> None:
        found = _MAINTAINER.match(package.maintainer)
        supplier = Actor(ActorType.ORGANIZATION, found[1], found[2]) if found else _NONE
        added = self._add("deb", package.name, version=package.version, supplier=supplier,
                          purl=_debian_purl(package.name, package.version, package.architecture) + self._distribution,
                          source_info=f"built from {package.source} {package.source_version}")  # fmt: skip
        self._contain(added)

    def add_program(self, program: Program) -> None:
        added = self._add("program", program.name, version=program.version, sha256=program.sha256,
                          licence=program.licence, file_name=program.path, purl=_program_purl(program),
                          purpose=PackagePurpose.APPLICATION)  # fmt: skip
        self._contain(added)
        for package in program.made_of:
            self._relate(added, RelationshipType.GENERATED_FROM, self._add_fetched(package))

    def add_go(self, program: GoProgram) -> None:
        added = self._add("go", program.main or Path(program.path).name, version="", sha256=program.sha256,
                          file_name=program.path, purpose=PackagePurpose.APPLICATION,
                          source_info=f"compiled by Go {program.go}",
                          purl=f"pkg:golang/{quote(program.main)}" if program.main else "")  # fmt: skip
        self._contain(added)
        for module in program.modules:
            below = self._add("gomod", module.path, version=module.version,
                              purl=f"pkg:golang/{quote(module.path)}@{quote(module.version, safe='')}")  # fmt: skip
            self._relate(added, RelationshipType.CONTAINS, below)

    def _add_fetched(self, package: Fetched) -> str:
        return self._add("made-of", package.name, version=package.version, sha256=package.sha256,
                         purl=_debian_purl(package.name, package.version, package.architecture))  # fmt: skip

    def _add(self, kind: str, name: str, *, version: str, sha256: str = "", purl: str = "", licence: str = "",
             file_name: str | None = None, supplier: Actor | SpdxNoAssertion = _NONE, source_info: str | None = None,
             purpose: PackagePurpose | None = None) -> str:
        identifier = f"SPDXRef-{kind}-{len(self.packages)}-{re.sub('[^A-Za-z0-9.-]', '-', name)}"
        purls = [ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl)] if purl else []
        sums = [Checksum(ChecksumAlgorithm.SHA256, sha256)] if sha256 else []
        self.packages.append(Package(
            identifier, name, _NONE, version=version or None, file_name=file_name, supplier=supplier,
            files_analyzed=False, checksums=sums, source_info=source_info, license_concluded=_NONE,
            license_declared=spdx_licensing.parse(licence) if licence else _NONE, copyright_text=_NONE,
            external_references=purls, primary_package_purpose=purpose,
        ))  # fmt: skip
        return identifier

    def _contain(self, added: str) -> None:
        self._relate(self.packages[0].spdx_id, RelationshipType.CONTAINS, added)

    def _relate(self, one: str, kind: RelationshipType, other: str) -> None:
        self.relationships.append(Relationship(one, kind, other))


def _debian_purl(name: str, version: str, architecture: str) -> str:
    """A package URL of type deb (package-url/purl-spec), as scanners for vulnerabilities expect it."""
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"


def _program_purl(program: Program) -> str:
    version = f"@{quote(program.version, safe='')}" if program.version else ""
    return f"pkg:generic/{program.name}{version}"
