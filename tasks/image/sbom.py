"""What an image is made of, as a CycloneDX 1.6 document for scanners and a list of licences for people. Pure.

In: the inventory of the runtime's image and the model's contract. Out: bytes that follow from them alone, without the
time of day, so that they may lie in a layer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from serving.contract import PackagedFile, ServingContract
from tasks.contracts import digest_of
from tasks.image.inventory import Installed, Inventory

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

SBOM_FILE = "sbom.json"
LICENCES_FILE = "licences.txt"


def bom(contract: ServingContract, inventory: Inventory, locked: Mapping[str, tuple[str, ...]]) -> bytes:
    """The CycloneDX document. `locked` are the wheels' digests that the lock allows, by distribution."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    image = Component(
        type=ComponentType.CONTAINER,
        name=contract.name,
        version=contract.version,
        bom_ref="image",
        properties=[Property(name=f"slipway:{key}", value=getattr(contract, key)) for key in ("format", "runtime")],
    )
    parts = [_model(contract), *(_package(each, locked) for each in inventory.packages)]
    document = Bom(
        components=parts,
        metadata=BomMetaData(component=image),
        # the same content has the same number (RFC 4122, version 5)
        serial_number=uuid.uuid5(
            uuid.NAMESPACE_OID, digest_of([contract.version, [file.digest for file in contract.files], inventory])
        ),
    )
    document.metadata.timestamp = None  # type: ignore[assignment]  # optional in CycloneDX, and no time enters a layer
    document.register_dependency(image, parts)
    text: str = JsonV1Dot6(document).output_as_string()
    return text.encode() + b"\n"


def licences(contract: ServingContract, inventory: Inventory) -> bytes:
    """For people: each package with its version, its licences and where their texts are."""
    lines = [
        f"What is in the image of {contract.name} {contract.version} ({contract.format}), apart from the model itself,",
        "with the licences that each package declares, and where in the image their texts are.",
        "Debian's texts refer to those of /usr/share/common-licenses.",
    ]
    for each in inventory.packages:
        lines += ["", f"{each.name} {each.version} ({'Debian' if each.kind == 'debian' else 'Python'})"]
        lines += [f"    {', '.join(each.licences) or 'see its text'}", *(f"    {text}" for text in each.texts)]
    return "\n".join([*lines, ""]).encode()


def _model(contract: ServingContract) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=contract.name,
        version=contract.version,
        bom_ref="model",
        components=[_file(file) for file in contract.files],
    )


def _file(file: PackagedFile) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.FILE,
        name=f"/package/{file.path}",
        bom_ref=f"file:{file.path}",
        hashes=[_sha256(file.digest.removeprefix("sha256:"))],
    )


def _package(package: Installed, locked: Mapping[str, tuple[str, ...]]) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    is_debian = package.kind == "debian"
    purl = PackageURL(
        type="deb" if is_debian else "pypi",
        namespace="debian" if is_debian else None,
        name=package.name,
        version=package.version,
        qualifiers={"arch": package.architecture or "all", "distro": "debian-12"} if is_debian else None,
    )
    allowed = locked.get(package.name.lower().replace("_", "-"), ())
    # Where the lock allows several wheels (of other platforms), which one a machine took is not written down.
    known = [package.sha256] if package.sha256 else list(allowed) if len(allowed) == 1 else []
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=[_sha256(each) for each in known],
        licenses=_licences(package.licences, is_debian),
        properties=[Property(name="slipway:licence-text", value=text) for text in package.texts],
    )


def _licences(names: Iterable[str], is_debian: bool) -> list[License]:
    """SPDX's names and expressions where they are some, else the package's own words.

    Debian's short names look like SPDX expressions and mean something else by "or", so they are taken one by one.
    """
    from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import LicenseExpression

    factory = LicenseFactory()
    found: list[License] = []
    for name in names:
        if is_debian:
            try:
                found.append(factory.make_with_id(name))
            except InvalidSpdxLicenseException:
                found.append(factory.make_with_name(name))
        else:
            found.append(factory.make_from_string(name))
    # CycloneDX: either one expression, or licences
    expressions = [each for each in found if isinstance(each, LicenseExpression)]
    if expressions and len(found) > 1:
        return [factory.make_with_name(name) for name in names]
    return found


def _sha256(hexadecimal: str) -> HashType:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=hexadecimal)
