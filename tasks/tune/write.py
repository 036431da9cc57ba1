"""A tuned image: the image that was measured, and one thin layer with the changed contract and the measurements.

In: an image, the setting that was chosen, `tuning.json`. Out: another image under a tag of its own; the one that was
measured stays as it is. Model, golden samples and answers are the same, and so are all labels but the contract's.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace

from serving.contract import CONTRACT_FILE, Batching, PackagedFile, ServingContract
from tasks.contracts import Digest, digest_of
from tasks.image.build import contract_bytes
from tasks.image.context import Context
from tasks.image.engine import Engine, ImageInfo
from tasks.settings import Settings
from tasks.workspace import scratch

#: The measurements, beside the contract.
TUNING_FILE = "tuning.json"


def write_tuned(
    reference: str,
    image: ImageInfo,
    contract: ServingContract,
    setting: Batching,
    tuning: bytes,
    engine: Engine,
    settings: Settings,
) -> tuple[str, ImageInfo]:
    """The tuned image's name and what the engine says of it.

    Raises:
        BuildFailed: the engine failed.
    """
    measured = PackagedFile(TUNING_FILE, f"sha256:{hashlib.sha256(tuning).hexdigest()}", len(tuning))
    others = [file for file in contract.files if file.path != TUNING_FILE]
    files = tuple(sorted([*others, measured], key=lambda file: file.path))
    content = contract_bytes(replace(contract, batching=setting, files=files))
    labels = {
        "io.slipway.contract": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "io.slipway.tuned-from": image.id,
        "org.opencontainers.image.base.digest": image.id,
    }
    identity = digest_of(labels)
    labels["io.slipway.build"] = identity
    tuned = tuned_reference(reference, identity)
    with scratch(settings.work) as work, tempfile.TemporaryFile(dir=work) as stream:
        layer = Context(stream)
        layer.add_bytes(f"package/{CONTRACT_FILE}", content)
        layer.add_bytes(f"package/{TUNING_FILE}", tuning)
        return tuned, engine.add_layer(image, layer.finish(), tuned, labels)


def tuned_reference(reference: str, identity: Digest) -> str:
    """The tuned image's name: that of the image it was made of, and the digest of what it follows from. An image that
    is tuned again does not grow another ending."""
    name, _, tag = reference.partition("@")[0].rpartition(":")
    if not name or "/" in tag:  # a name without a tag, or the port of a registry
        name, tag = reference.partition("@")[0], "latest"
    return f"{name}:{tag.partition('-tuned-')[0]}-tuned-{identity.removeprefix('sha256:')[:12]}"
