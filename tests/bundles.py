"""The tiny model as a package that the store knows: what `slipway bundle` starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.contract import CONTRACT_FILE
from serving.package import read_contract
from tasks.contracts import Image, Package
from tasks.store import Store, put_file
from tests import samples
from tests.integration.tiny import TinyModel


def publish(store: Store, tiny: TinyModel, folder: Path, name: str = "tiny", **evidence: Any) -> Package:
    """Store the package of `tiny`, made in `folder`, and its manifest; passed unless `evidence` says otherwise."""
    image = stored_image(store, tiny.package(folder, name=name))
    spec = samples.spec(name=name, formats=(tiny.format,))
    known = samples.package(
        store,
        spec,
        artifact=samples.artifact(store, name=name),
        images=[image],
        smoke=evidence.pop(
            "smoke",
            [samples.smoke_report(tiny.format, kind, image_digest=image.digest) for kind in spec.smoke.instance_types],
        ),
        **evidence,
    )
    store.put_result("package", known.digest, known.model_dump_json())
    return known


def stored_image(store: Store, package: Path) -> Image:
    """What the image stage says of a package folder, whose files are in the store afterwards."""
    contract = read_contract(package)
    for file in contract.files:
        put_file(store, package / file.path)
    stored = put_file(store, package / CONTRACT_FILE)
    return samples.image(contract.format, runtime=contract.runtime, contract_digest=stored.digest, contract=stored)
