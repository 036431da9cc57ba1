"""What an image is made of and the signed evidence reach the package's history."""

from __future__ import annotations

from pathlib import Path

from tasks.attestation import attestation_of
from tasks.lineage.evidence import of_package, of_stages
from tasks.pipeline import Pipeline
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples


def test_publishing_a_package_signs_it(tmp_path: Path) -> None:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path)})
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    published = Pipeline(settings).publish(
        samples.spec(), made.artifact, made.exports, made.parity, made.images, made.smoke
    )
    assert attestation_of(published.digest, store) is not None


def test_a_run_holds_the_attestation_and_is_filled_again_when_that_changes(tmp_path: Path) -> None:
    made = samples.package(LocalStore(tmp_path))
    unsigned, signed = (of_package(made, "", None, attestation) for attestation in (None, "envelope"))
    assert "attestation.json" not in unsigned.texts
    assert signed.texts["attestation.json"] == "envelope"
    assert signed.digest != unsigned.digest


def test_an_images_run_holds_what_it_is_made_of(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    files = {"sbom": samples.stored(store, "sbom.json"), "licences": samples.stored(store, "licences.txt")}
    made = samples.package(store, images=[samples.image(name, **files) for name in samples.FORMATS])
    [run, _] = [each for each in of_stages(made) if each.stage == "image"]
    assert run.files == {"sbom.json": files["sbom"], "licences.txt": files["licences"]}
