"""A tuned image: the package's image, and one thin layer with the changed contract and the measurements; signed.

In: the basis, the setting that was chosen, `tuning.json`. Out: a `TunedImage`, in the engine under a tag of its own and
in the store under its digest; the package's image stays as it is. Model, golden samples and answers are the same, and
so are all labels but the contract's. It is known only once it is signed: what a kill leaves before that is an image
that nothing vouches for, and is refused like any other.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import replace

from serving.contract import CONTRACT_FILE, PackagedFile, ServingContract
from tasks.attestation import attest_tuned
from tasks.contracts import Digest, TunedImage, digest_of
from tasks.image.build import contract_bytes
from tasks.image.context import Context
from tasks.image.engine import CONTRACT_LABEL, Engine
from tasks.lineage.history import remember_tuned
from tasks.settings import Settings
from tasks.store import Store
from tasks.tune.basis import Basis
from tasks.tune.run import Tuning
from tasks.tune.search import Choice
from tasks.workspace import scratch

#: The measurements, beside the contract.
TUNING_FILE = "tuning.json"


def write_tuned(
    basis: Basis,
    contract: ServingContract,
    tuning: Tuning,
    choice: Choice,
    measured: bytes,
    engine: Engine,
    store: Store,
    settings: Settings,
) -> TunedImage:
    """The tuned image; `measured` is the content of `tuning.json`.

    Raises:
        BuildFailed: the engine failed.
        PlatformError: it could not be signed, or the store does not answer; then the image is removed again.
    """
    curve = PackagedFile(TUNING_FILE, *store.put_stream(io.BytesIO(measured)))
    others = [file for file in contract.files if file.path != TUNING_FILE]
    files = tuple(sorted([*others, curve], key=lambda file: file.path))
    content = contract_bytes(replace(contract, batching=choice.setting, files=files))
    stored = PackagedFile(CONTRACT_FILE, *store.put_stream(io.BytesIO(content)))
    labels = {
        CONTRACT_LABEL: f"sha256:{hashlib.sha256(content).hexdigest()}",
        "io.slipway.tuned-from": basis.image.digest,
        "org.opencontainers.image.base.digest": basis.image.digest,
    }
    identity = digest_of(labels)
    labels["io.slipway.build"] = identity
    reference = tuned_reference(basis.image.reference, identity)
    with scratch(settings.work) as work, tempfile.TemporaryFile(dir=work) as stream:
        layer = Context(stream)
        layer.add_bytes(f"package/{CONTRACT_FILE}", content)
        layer.add_bytes(f"package/{TUNING_FILE}", measured)
        there = engine.add_layer(basis.there, layer.finish(), reference, labels)
    tuned = TunedImage(
        package=basis.package.digest,
        name=basis.package.name,
        format=basis.image.format,
        reference=reference,
        digest=there.id,
        layers=there.layers,
        base=basis.image.digest,
        base_attestation=basis.attestation,
        contract=stored,
        curve=curve,
        setting=choice.setting,
        p99_ms=tuning.p99_ms,
        rows=tuning.rows,
        cpus=tuning.cpus,
        requests_per_s=choice.rate,
    )
    try:
        attest_tuned(tuned, basis.package, store, settings)
        remember_tuned(tuned, store)
    except BaseException:  # also an interrupt: an image that nothing vouches for is of no use
        engine.remove_image(reference)
        raise
    return tuned


def tuned_reference(reference: str, identity: Digest) -> str:
    """The tuned image's name: that of the package's image, and the digest of what it follows from."""
    return f"{reference}-tuned-{identity.removeprefix('sha256:')[:12]}"
