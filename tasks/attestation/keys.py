"""The key that evidence is signed with, and the public half that it is verified with.

`SLIPWAY_SIGNING_KEY` names a private key (PEM, PKCS #8, Ed25519); without it one is made on first use under
SLIPWAY_HOME, which proves that the evidence was made there, not by whom. The public key lies beside the private one,
under the same name with the ending `.pub`. Neither enters the store, a log or an image.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import BadInput
from tasks.settings import Settings
from tasks.workspace import locked

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey


def signer(settings: Settings) -> CryptoSigner:
    """What signs, with the public key beside its file.

    Raises:
        BadInput: the key that was named is missing, open to others, or no Ed25519 key.
    """
    path = settings.signing_key or settings.home / "keys" / "signing.pem"
    if settings.signing_key is None:
        with locked(settings.home / "locks" / "signing-key.lock"):
            if not path.exists():
                _make(path)
    found = _private(path)
    public = path.with_suffix(".pub")
    if settings.signing_key is None and not public.exists():
        _write(public, _public_pem(found), 0o644)
    return found


def public_key(settings: Settings, path: Path | None = None) -> SSlibKey:
    """The key that verifies: the one in `path`, or the public half of this installation's own.

    Raises:
        BadInput: there is none, or it is no Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    if path is None and settings.signing_key is not None:
        return _private(settings.signing_key).public_key
    where = path or settings.home / "keys" / "signing.pub"
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(where.read_bytes()))
    except OSError as error:
        raise BadInput(
            f"{where}: no public key to verify with ({error.strerror}): give one with --key; "
            "`slipway package` leaves its own as keys/signing.pub below SLIPWAY_HOME"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # without the reason, which is a page of the library's advice to programmers
        raise BadInput(
            f"{where}: expected a public key in PEM, found something else: give the file that begins with "
            "-----BEGIN PUBLIC KEY-----, such as keys/signing.pub below SLIPWAY_HOME"
        ) from error
    if key.keytype != "ed25519":
        raise BadInput(f"{where}: expected an Ed25519 key, found {key.keytype}")
    return key


def _private(path: Path) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: the signing key cannot be read ({error.strerror}): let SLIPWAY_SIGNING_KEY name one "
            "(`openssl genpkey -algorithm ed25519 -out FILE`), or unset it"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput(f"{path}: the signing key is open to others: `chmod 600` it, and think about who read it")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # without the reason: it may quote the file
        raise BadInput(f"{path}: expected a private key in PEM without a password, found something else") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: expected an Ed25519 key, found another kind: `openssl genpkey -algorithm ed25519`")
    return CryptoSigner(key)


def _make(path: Path) -> None:
    from securesystemslib.signer import CryptoSigner

    made = CryptoSigner.generate_ed25519()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.with_suffix(".pub").unlink(missing_ok=True)  # of a key that is gone
    _write(path, made.private_bytes, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never more open than `mode`."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(path)


def _public_pem(key: CryptoSigner) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    return (
        load_pem_private_key(key.private_bytes, None)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
