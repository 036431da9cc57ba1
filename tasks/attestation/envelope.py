"""Statement and key → DSSE envelope, and back: what was signed, once its signature holds. Pure.

An envelope is JSON as in-toto's and Sigstore's tools read it. What is missing, unreadable, signed by somebody else or
of another kind is `Refused`, which carries the finding: `ATTESTATION_MISSING`, `_UNREADABLE`, `_KEY_UNKNOWN`,
`_SIGNATURE_INVALID`, `_FOREIGN`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from tasks.contracts import Contract, Finding, Owner

if TYPE_CHECKING:
    from in_toto_attestation.v1.statement import Statement
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, Key

#: DSSE's `payloadType` for in-toto (in-toto Envelope v1).
PAYLOAD_TYPE = "application/vnd.in-toto+json"

_Said = TypeVar("_Said", bound=Contract)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an envelope should hold. `predicate_type` is by in-toto's rule a URI (in-toto Statement v1); `subject` is
    what it is about, `redo` how to have it signed again and `beware` what to do when it was changed, for people."""

    predicate_type: str
    subject: str
    redo: str
    beware: str


class Refused(Exception):
    """The envelope proves nothing."""

    def __init__(self, code: str, message: str, advice: str) -> None:
        self.finding = finding(code, message, advice)
        super().__init__(message)


def finding(code: str, message: str, advice: str) -> Finding:
    return Finding(code=f"ATTESTATION_{code}", owner=Owner.PLATFORM, message=message, advice=advice)


def statement_of(subjects: dict[str, str], kind: Kind, predicate: Contract) -> bytes:
    """The in-toto Statement about `subjects` (name → digest) as canonical JSON.

    Raises:
        ValueError: there is no subject.
    """
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    described = [
        ResourceDescriptor(name=name, digest={"sha256": digest.removeprefix("sha256:")}).pb
        for name, digest in subjects.items()
    ]
    made = Statement(described, kind.predicate_type, predicate.model_dump(mode="json"))
    made.validate()
    return json.dumps(MessageToDict(made.pb), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal(statement: bytes, key: CryptoSigner) -> str:
    """The statement in a signed envelope."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    envelope.sign(key)
    return json.dumps(envelope.to_dict(), sort_keys=True)


def opened(envelope: str | None, public_key: Key, kind: Kind) -> Statement:
    """The statement in an envelope, once its signature holds.

    Raises:
        Refused: it does not, or something else was signed.
    """
    from google.protobuf.json_format import Parse, ParseError
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message
    from securesystemslib.exceptions import VerificationError

    if envelope is None:
        message = f"{kind.subject} has no attestation, so nothing binds its image to its evidence"
        raise Refused("MISSING", message, kind.redo)
    held = _parsed(envelope, kind)
    if public_key.keyid not in held.signatures:
        signers = ", ".join(each[:12] for each in held.signatures) or "nobody"
        raise Refused(
            "KEY_UNKNOWN",
            f"expected a signature of the key {public_key.keyid[:12]}, found those of {signers}",
            "verify with the public key of whoever made it, or let whom you trust make it again",
        )
    try:
        held.verify([public_key], threshold=1)
    except VerificationError:
        raise Refused(
            "SIGNATURE_INVALID",
            f"the signature of the key {public_key.keyid[:12]} does not fit what the envelope holds",
            kind.beware,
        ) from None
    if held.payload_type != PAYLOAD_TYPE:
        raise Refused("FOREIGN", f"expected {PAYLOAD_TYPE}, found {held.payload_type}", kind.redo)
    try:
        found = Statement.copy_from_pb(Parse(held.payload, Message()))
        found.validate()
    except (ParseError, ValueError) as error:
        raise Refused("FOREIGN", f"what was signed is no in-toto statement: {error}", kind.redo) from None
    if found.pb.predicate_type != kind.predicate_type:
        raise Refused("FOREIGN", f"expected a {kind.predicate_type}, found {found.pb.predicate_type}", kind.redo)
    return found


def predicate(signed: Statement, form: type[_Said], kind: Kind) -> _Said:
    """What a statement says.

    Raises:
        Refused: it is not of this form.
    """
    from google.protobuf.json_format import MessageToDict

    try:
        return form.model_validate(MessageToDict(signed.pb.predicate))
    except ValidationError as error:
        message = f"the statement is of another version of Slipway ({error.error_count()} fields differ)"
        raise Refused("FOREIGN", message, kind.redo) from None


def subjects(signed: Statement) -> list[str]:
    """The digests that a statement is about."""
    return sorted(f"sha256:{subject.digest['sha256']}" for subject in signed.pb.subject)


def _parsed(envelope: str, kind: Kind) -> Envelope:
    from securesystemslib.dsse import Envelope

    try:
        return Envelope.from_dict(json.loads(envelope))
    # whatever JSON may hold in the place of an envelope; securesystemslib documents three of them
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the attestation is no DSSE envelope ({type(error).__name__})"
        raise Refused("UNREADABLE", message, kind.redo) from None
