"""Signed evidence passes only when all of it holds, and each way in which it does not is told apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from tasks.attestation.envelope import PAYLOAD_TYPE
from tasks.attestation.statement import statement
from tasks.attestation.verification import verify
from tasks.contracts import Package, ParityReport, SmokeReport, Verdict, digest_of
from tasks.store import LocalStore
from tests import samples

Change = Callable[[Package], Package]


@pytest.fixture(scope="module")
def key() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    store = LocalStore(tmp_path)
    return samples.package(store, images=[samples.proven_image(store, name) for name in samples.FORMATS])


def signed(payload: bytes, key: CryptoSigner, payload_type: str = PAYLOAD_TYPE) -> str:
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(key)
    return json.dumps(envelope.to_dict())


def codes(package: Package, envelope: str | None, key: CryptoSigner) -> set[str]:
    report = verify(package, envelope, key.public_key)
    assert (report.verdict is Verdict.PASSED) == (not report.findings)
    return {finding.code.removeprefix("ATTESTATION_") for finding in report.findings}


def test_what_was_signed_and_is_still_so_passes(package: Package, key: CryptoSigner) -> None:
    assert codes(package, signed(statement(package), key), key) == set()


def test_the_statement_is_in_totos_about_the_images(package: Package) -> None:
    said = json.loads(statement(package))
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert [subject["digest"]["sha256"] for subject in said["subject"]] == [
        each.digest.removeprefix("sha256:") for each in package.images
    ]
    [onnx, _] = said["predicate"]["formats"]
    assert said["predicate"]["source"]["files"] == package.artifact.files.digest
    assert onnx["parity"] == {
        "report": digest_of(package.parity[0]),
        "export": package.parity[0].export_digest,
        "verdict": "passed",
    }
    assert onnx["image"]["layers"] == list(package.images[0].layers)


def test_the_same_package_gives_the_same_envelope(package: Package, key: CryptoSigner) -> None:
    assert signed(statement(package), key) == signed(statement(package), key)


# --- is it signed -------------------------------------------------------------------------------------------------


def test_a_missing_attestation_blocks(package: Package, key: CryptoSigner) -> None:
    assert codes(package, None, key) == {"MISSING"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "no JSON", "[]", "null", "7", "{}", '{"payload": "x"}'),
        '{"payload": "", "payloadType": "", "signatures": 7}',
        '{"payload": "!", "payloadType": "x", "signatures": [{"keyid": "x", "sig": "!"}]}',
    ],
)
def test_what_is_no_envelope_blocks(package: Package, key: CryptoSigner, text: str) -> None:
    assert codes(package, text, key) == {"UNREADABLE"}


def test_another_key_blocks(package: Package, key: CryptoSigner) -> None:
    assert codes(package, signed(statement(package), CryptoSigner.generate_ed25519()), key) == {"KEY_UNKNOWN"}


def test_nobodys_signature_blocks(package: Package, key: CryptoSigner) -> None:
    unsigned = json.dumps(Envelope(statement(package), PAYLOAD_TYPE, {}).to_dict())
    assert codes(package, unsigned, key) == {"KEY_UNKNOWN"}


def test_another_key_under_the_name_of_the_right_one_blocks(package: Package, key: CryptoSigner) -> None:
    other = CryptoSigner.generate_ed25519()
    forged = json.loads(signed(statement(package), other))
    forged["signatures"][0]["keyid"] = key.public_key.keyid
    assert codes(package, json.dumps(forged), key) == {"SIGNATURE_INVALID"}


def test_any_changed_byte_of_what_was_signed_blocks(package: Package, key: CryptoSigner) -> None:
    envelope = json.loads(signed(statement(package), key))
    payload = bytearray(base64.b64decode(envelope["payload"]))
    for position in range(0, len(payload), 97):
        changed = bytearray(payload)
        changed[position] ^= 1
        text = json.dumps({**envelope, "payload": base64.b64encode(changed).decode()})
        assert codes(package, text, key) == {"SIGNATURE_INVALID"}, position


def test_another_payload_type_blocks(package: Package, key: CryptoSigner) -> None:
    assert codes(package, signed(statement(package), key, "application/json"), key) == {"FOREIGN"}


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"subject": []},
        {"predicate": {"package": "sha256:0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_kind_of_statement_blocks(package: Package, key: CryptoSigner, change: dict[str, Any]) -> None:
    payload = json.dumps({**json.loads(statement(package)), **change}).encode()
    assert codes(package, signed(payload, key), key) == {"FOREIGN"}


# --- is it about this package -------------------------------------------------------------------------------------


def replaced(package: Package, **changes: Any) -> Package:
    return package.model_copy(update=changes)


def other_image(package: Package, **changes: Any) -> Package:
    return replaced(package, images=(package.images[0].model_copy(update=changes), *package.images[1:]))


def other_parity(package: Package, **changes: Any) -> Package:
    return replaced(package, parity=(package.parity[0].model_copy(update=changes), *package.parity[1:]))


def other_artifact(package: Package, **changes: Any) -> Package:
    return replaced(package, artifact=package.artifact.model_copy(update=changes))


DIFFERENT: dict[str, tuple[str, Change]] = {
    "another image": ("IMAGE", lambda p: other_image(p, digest=digest_of("other"))),
    "another layer": ("IMAGE", lambda p: other_image(p, layers=(digest_of("other"),))),
    "one image less": ("IMAGE", lambda p: replaced(p, images=p.images[:1])),
    "another parity report": ("PARITY", lambda p: other_parity(p, batch_sizes=(1,))),
    "another smoke report": ("SMOKE", lambda p: replaced(p, smoke=p.smoke[1:])),
    "another export": ("EXPORT", lambda p: replaced(p, exports=p.exports[1:])),
    "other trained bytes": ("SOURCE", lambda p: other_artifact(p, root="other")),
    "other data": (
        "DATA",
        lambda p: other_artifact(p, evaluation=p.artifact.evaluation.model_copy(update={"quality": None})),
    ),
    "another owner": ("PACKAGE", lambda p: replaced(p, owner="other@example.com")),
    "another pipeline": (
        "PACKAGE",
        lambda p: replaced(p, inputs=p.inputs.model_copy(update={"pipeline": digest_of("other")})),
    ),
}


@pytest.mark.parametrize(("code", "change"), DIFFERENT.values(), ids=DIFFERENT)
def test_evidence_about_something_else_blocks(package: Package, key: CryptoSigner, code: str, change: Change) -> None:
    envelope = signed(statement(package), key)
    assert codes(change(package), envelope, key) == {f"{code}_DIFFERS"}


# --- does it let anything through ---------------------------------------------------------------------------------


def with_parity(package: Package, report: ParityReport) -> Package:
    """A manifest that claims to have passed all the same."""
    return replaced(package, parity=(report, *package.parity[1:]))


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.INCONCLUSIVE])
def test_parity_that_did_not_pass_blocks_though_all_is_signed(
    package: Package, key: CryptoSigner, verdict: Verdict
) -> None:
    failed = other_parity(package, verdict=verdict)
    assert "PARITY_NOT_PASSED" in codes(failed, signed(statement(failed), key), key)


def test_missing_parity_blocks(package: Package, key: CryptoSigner) -> None:
    without = replaced(package, parity=package.parity[1:])
    assert "PARITY_NOT_PASSED" in codes(without, signed(statement(without), key), key)


def test_smoke_that_did_not_pass_or_is_missing_blocks(package: Package, key: CryptoSigner) -> None:
    reports: list[tuple[SmokeReport, ...]] = [
        package.smoke[1:],
        (package.smoke[0].model_copy(update={"verdict": Verdict.INCONCLUSIVE}), *package.smoke[1:]),
    ]
    for smoke in reports:
        changed = replaced(package, smoke=smoke)
        assert codes(changed, signed(statement(changed), key), key) == {"SMOKE_NOT_PASSED"}


def test_data_that_nobody_looked_at_blocks(package: Package, key: CryptoSigner) -> None:
    changed = DIFFERENT["other data"][1](package)
    assert codes(changed, signed(statement(changed), key), key) == {"DATA_NOT_PASSED"}


def test_a_package_that_did_not_pass_blocks(package: Package, key: CryptoSigner) -> None:
    changed = replaced(package, verdict=Verdict.INCONCLUSIVE)
    assert codes(changed, signed(statement(changed), key), key) == {"PACKAGE_NOT_PASSED"}


@pytest.mark.parametrize("label", ["io.slipway.export", "io.slipway.parity"])
def test_an_image_built_on_other_evidence_blocks(package: Package, key: CryptoSigner, label: str) -> None:
    for labels in ({**package.images[0].labels, label: digest_of("other")}, {}):
        changed = other_image(package, labels=labels)
        assert codes(changed, signed(statement(changed), key), key) == {"CHAIN_BROKEN"}


def test_a_format_that_was_asked_for_and_is_not_there_blocks(package: Package, key: CryptoSigner) -> None:
    changed = replaced(package, exports=package.exports[:1])
    assert "PARITY_NOT_PASSED" in codes(changed, signed(statement(changed), key), key)
