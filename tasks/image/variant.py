"""A serving image → the same package on the libraries of another architecture, to be tried under emulation.

In: an image whose package is in the store. Out: an image of the same files, whose contract differs in one word: the
architecture that it needs. It is evidence about the package and no part of it: neither signed nor pushed, for what was
not seen to keep its budgets is not released.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

from pydantic import TypeAdapter

from serving.contract import CONTRACT_FILE, ServingContract
from serving.preprocess import extras
from tasks.contracts import Image
from tasks.image.build import contract_bytes
from tasks.image.context import Context
from tasks.image.engine import CONTRACT_LABEL, Engine, ImageInfo
from tasks.image.runtimes import OTHERS, ensure_runtime, find_runtime
from tasks.image.undated import digest_of_bytes
from tasks.settings import Settings
from tasks.store import Store
from tasks.workspace import scratch

_VARIANT_LABEL = "io.slipway.variant-of"


class NoVariant(Exception):
    """There is none for that architecture; the message says why, as a clause."""


def variant(image: Image, architecture: str, store: Store, engine: Engine, settings: Settings) -> ImageInfo:
    """The image for `architecture` (Docker's name), built unless it is there already.

    Raises:
        NoVariant: its runtime has no libraries for it, or its model is compiled for one processor.
        BuildFailed: base, libraries or image could not be made.
        CorruptObject: the store's bytes are not the ones that their digests name.
        EngineUnavailable: the engine does not answer.
    """
    if architecture not in OTHERS or architecture not in find_runtime(image.runtime).others:
        raise NoVariant(f"the runtime {image.runtime} is not built for {architecture}")
    if image.contract is None:
        raise NoVariant("its contract is not in the store, because an earlier version of Slipway built the image")
    with store.open(image.contract.digest) as stream:
        contract = TypeAdapter(ServingContract).validate_json(stream.read())
    if contract.needs.instructions:
        raise NoVariant("the model is compiled for x86-64")
    platform = OTHERS[architecture]
    contract = replace(contract, needs=replace(contract.needs, architecture=platform.machine))
    content = contract_bytes(contract)
    labels = {CONTRACT_LABEL: digest_of_bytes(content), _VARIANT_LABEL: image.digest}
    runtime = ensure_runtime(image.runtime, engine, settings, extras(contract.preprocess), platform)
    below = engine.find_image(runtime)
    if below is None:
        raise NoVariant(f"the runtime's image {runtime} is gone: something removes images on this engine")
    reference = f"{image.reference}-{architecture}"
    there = engine.find_image(reference)
    if there is not None and there.layers[:-1] == below.layers and labels.items() <= there.labels.items():
        return there
    with scratch(settings.work) as work, tempfile.TemporaryFile(dir=work) as stream:
        layer = Context(stream)
        layer.add_bytes(f"package/{CONTRACT_FILE}", content)
        for file in contract.files:
            layer.add_stored(f"package/{file.path}", file, store)
        return engine.add_layer(below, layer.finish(), reference, labels)
