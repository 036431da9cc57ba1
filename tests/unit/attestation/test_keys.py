"""The signing key: made once and closed to others, or named; and what is left in the store."""

from __future__ import annotations

import multiprocessing
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from tasks.attestation import attest, attestation_of, public_key, verify
from tasks.attestation.keys import signer
from tasks.contracts import Verdict
from tasks.errors import BadInput
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples

RSA = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.pem"
    path.write_bytes(CryptoSigner.generate_ed25519().private_bytes)
    path.chmod(0o600)
    return path


def test_a_key_is_made_once_and_only_its_owner_reads_it(settings: Settings) -> None:
    first, second = signer(settings), signer(settings)
    assert first.public_key == second.public_key == public_key(settings)
    path = settings.home / "keys" / "signing.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(each.name for each in path.parent.iterdir()) == ["signing.pem", "signing.pub"]


def test_two_that_need_it_at_once_get_the_same(settings: Settings) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_key_id, [settings, settings])
    assert first == second


def _key_id(settings: Settings) -> str:
    return signer(settings).public_key.keyid


def test_a_key_of_ones_own_signs_and_none_is_made(settings: Settings, own: Path) -> None:
    named = replace(settings, signing_key=own)
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    envelope = attest(made, store, named)
    assert public_key(named).keyid in str(envelope)
    assert not (settings.home / "keys").exists()


def test_the_environment_names_it(tmp_path: Path) -> None:
    assert Settings.from_environment({"SLIPWAY_SIGNING_KEY": str(tmp_path / "x")}).signing_key == tmp_path / "x"
    assert Settings.from_environment({"SLIPWAY_SIGNING_KEY": ""}).signing_key is None


def test_a_named_key_that_is_missing_open_or_none_is_a_sentence(settings: Settings, own: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the signing key cannot be read"):
        signer(replace(settings, signing_key=tmp_path / "missing"))
    own.chmod(0o640)
    with pytest.raises(BadInput, match="open to others"):
        signer(replace(settings, signing_key=own))
    own.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    own.chmod(0o600)
    with pytest.raises(BadInput, match="expected a private key in PEM") as refused:
        signer(replace(settings, signing_key=own))
    assert "c2VjcmV0" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_public_key_that_is_missing_or_of_another_kind_is_a_sentence(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no public key to verify with"):
        public_key(settings)
    (tmp_path / "rsa.pub").write_text(RSA)
    with pytest.raises(BadInput, match="Ed25519"):
        public_key(settings, tmp_path / "rsa.pub")
    (tmp_path / "text").write_text("text")
    with pytest.raises(BadInput, match="expected a public key in PEM, found something else: give the file") as refused:
        public_key(settings, tmp_path / "text")
    assert "http" not in str(refused.value)


def test_what_is_signed_is_in_the_store_and_verifies_as_far_as_the_evidence_goes(settings: Settings) -> None:
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    envelope = attest(made, store, settings)
    assert attestation_of(made.digest, store) == envelope
    report = verify(made, envelope, public_key(settings))
    # these images were built by nobody, so nothing says on what evidence
    assert {finding.code for finding in report.findings} == {"ATTESTATION_CHAIN_BROKEN"}


def test_a_package_that_failed_is_signed_as_failed(settings: Settings) -> None:
    store = LocalStore(Path(settings.store_uri))
    smoke = samples.smoke_report(verdict=Verdict.FAILED)
    made = samples.package(store, smoke=[smoke])
    report = verify(made, attest(made, store, settings), public_key(settings))
    assert "ATTESTATION_SMOKE_NOT_PASSED" in {finding.code for finding in report.findings}


def test_without_an_image_there_is_nothing_to_sign(settings: Settings) -> None:
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store, images=[], smoke=[])
    assert attest(made, store, settings) is None
    assert not (settings.home / "keys").exists()
