"""A tuned image's evidence holds only with all that it follows from: its package's, its curve and its contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.contract import Batching
from tasks.attestation import attest, attest_tuned, attestation_of, envelope_digest, public_key, verify, verify_stored
from tasks.attestation.envelope import seal
from tasks.attestation.keys import signer
from tasks.contracts import Package, TunedImage, Verdict, digest_of
from tasks.errors import PlatformError
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    return LocalStore(Path(settings.store_uri))


@pytest.fixture
def package(store: LocalStore, settings: Settings) -> Package:
    made = samples.package(store, images=[samples.proven_image(store, name) for name in samples.FORMATS])
    attest(made, store, settings)
    return made


@pytest.fixture
def tuned(package: Package, store: LocalStore, settings: Settings) -> TunedImage:
    made = samples.tuned_image(
        store, package, base_attestation=envelope_digest(attestation_of(package.digest, store) or "")
    )
    attest_tuned(made, package, store, settings)
    return made


def codes(tuned: TunedImage, package: Package, store: LocalStore, settings: Settings) -> set[str]:
    signed = attestation_of(tuned.digest, store)
    report = verify_stored(tuned, package, store, public_key(settings), signed)
    assert (report.verdict is Verdict.PASSED) == (not report.findings)
    assert (report.package, report.image) == (package.digest, tuned.digest)
    return {finding.code.removeprefix("ATTESTATION_") for finding in report.findings}


def test_what_was_tuned_and_signed_passes(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings
) -> None:
    assert codes(tuned, package, store, settings) == set()


def test_what_is_signed_binds_the_image_to_its_base_its_curve_and_its_contract(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings
) -> None:
    from securesystemslib.dsse import Envelope

    envelope = Envelope.from_dict(json.loads(attestation_of(tuned.digest, store) or ""))
    said = json.loads(envelope.payload)
    assert said["predicateType"] == "urn:slipway:tuning:v1"
    assert [subject["digest"]["sha256"] for subject in said["subject"]] == [tuned.digest.removeprefix("sha256:")]
    predicate = said["predicate"]
    assert predicate["base"] == package.images[0].digest
    assert predicate["base_attestation"] == envelope_digest(attestation_of(package.digest, store) or "")
    assert (predicate["curve"]["digest"], predicate["contract"]["digest"]) == (
        tuned.curve.digest,
        tuned.contract.digest,
    )
    assert predicate["setting"]["batch_rows"] == 8


def test_without_an_attestation_or_with_the_packages_it_is_refused(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings
) -> None:
    key = public_key(settings)
    missing = verify_stored(tuned, package, store, key, None)
    assert [finding.code for finding in missing.findings] == ["ATTESTATION_MISSING"]
    other = verify_stored(tuned, package, store, key, attestation_of(package.digest, store))
    assert [finding.code for finding in other.findings] == ["ATTESTATION_FOREIGN"]
    # nor does a tuned image's pass for a package's
    swapped = verify(package, attestation_of(tuned.digest, store), key)
    assert [finding.code for finding in swapped.findings] == ["ATTESTATION_FOREIGN"]


def test_another_key_is_refused(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings, tmp_path: Path
) -> None:
    other = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "other")})
    signer(other)
    assert codes(tuned, package, store, other) == {"KEY_UNKNOWN"}


@pytest.mark.parametrize("which", ["contract", "curve"])
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"{}"), Path.unlink], ids=["altered", "gone"])
def test_a_tampered_curve_or_contract_is_refused(
    tuned: TunedImage,
    package: Package,
    store: LocalStore,
    settings: Settings,
    which: str,
    change: Callable[[Path], object],
) -> None:
    digest = getattr(tuned, which).digest.removeprefix("sha256:")
    change(store.root / "objects" / digest[:2] / digest[2:])
    assert codes(tuned, package, store, settings) == {f"{which.upper()}_DIFFERS"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"setting": Batching(batch_rows=64)}, "SETTING_DIFFERS"),
        ({"requests_per_s": 9000.0}, "SETTING_DIFFERS"),
        ({"base": digest_of("other")}, "BASE_DIFFERS"),
        ({"base_attestation": digest_of("other")}, "BASE_DIFFERS"),
        ({"layers": (digest_of("other"),)}, "IMAGE_DIFFERS"),
        ({"reference": "slipway/other:onnx"}, "IMAGE_DIFFERS"),
        ({"format": "savedmodel"}, "PACKAGE_DIFFERS"),
    ],
)
def test_a_record_that_says_otherwise_than_was_signed_is_refused(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings, change: dict[str, object], code: str
) -> None:
    assert codes(tuned.model_copy(update=change), package, store, settings) == {code}


@pytest.mark.parametrize("change", [{"base": digest_of("other")}, {"layers": (digest_of("other"),)}])
def test_a_tuned_image_that_does_not_stand_on_the_packages_is_refused_though_it_is_signed(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings, change: dict[str, object]
) -> None:
    from tasks.attestation.tuned import tuned_statement

    other = tuned.model_copy(update=change)
    store.put_result("attestation", other.digest, seal(tuned_statement(other), signer(settings)))
    assert codes(other, package, store, settings) == {"CHAIN_BROKEN"}
    with pytest.raises(PlatformError, match="does not verify"):
        attest_tuned(other, package, store, settings)


def test_a_package_whose_attestation_is_gone_or_anew_takes_its_tuned_images_with_it(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings
) -> None:
    again = package.model_copy(update={"owner": "other@example.com"})
    attest(again, store, settings)
    assert codes(tuned, again, store, settings) == {"BASE_DIFFERS"}
    (store.root / "results" / "attestation" / f"{package.digest.removeprefix('sha256:')}.json").unlink()
    assert codes(tuned, package, store, settings) == {"MISSING"}


def test_a_package_that_did_not_pass_takes_its_tuned_images_with_it(
    tuned: TunedImage, package: Package, store: LocalStore, settings: Settings
) -> None:
    failed = package.model_copy(update={"verdict": Verdict.FAILED})
    attest(failed, store, settings)
    assert codes(tuned, failed, store, settings) == {"BASE_DIFFERS", "PACKAGE_NOT_PASSED"}
    with pytest.raises(PlatformError, match="does not verify"):
        attest_tuned(tuned, failed, store, settings)


def test_a_key_of_ones_own_signs_tuned_images_too(
    package: Package, store: LocalStore, settings: Settings, tmp_path: Path
) -> None:
    signer(settings)
    named = replace(settings, signing_key=settings.home / "keys" / "signing.pem")
    base = envelope_digest(attestation_of(package.digest, store) or "")
    made = samples.tuned_image(store, package, base_attestation=base)
    assert public_key(named).keyid in attest_tuned(made, package, store, named)
