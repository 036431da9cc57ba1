"""Images to a registry and back, always by the digest of their manifest: a tag may be moved, a digest may not.

In: an image of a package, and a repository (`registry.example.com/models/digits`). Out: a `Pushed`, which says under
which digest the registry has it. What comes back is held against the layers that were built. Credentials are Docker's
own (`docker login`); Slipway neither asks for nor keeps any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from pydantic import ValidationError

from tasks.contracts import Contract, Digest, Image, TunedImage, digest_of
from tasks.errors import BadInput, CorruptObject, PlatformError
from tasks.image.engine import Engine, ImageInfo
from tasks.store import Store

AnyImage: TypeAlias = Image | TunedImage

_STAGE = "pushed"
#: host, or host with port, and at least one part of a path (the distribution specification's repository names); a first
#: part without dot or colon would be a user of Docker Hub.
_REPOSITORY = re.compile(
    r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[A-Za-z0-9.-]+(?=:\d))(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
)
_BY_DIGEST = re.compile(r"(?P<repository>.+)@(?P<digest>sha256:[0-9a-f]{64})")


class Pushed(Contract):
    """An image in a registry. `manifest` is the registry's own digest of it; the image's is `image`."""

    image: Digest
    layers: tuple[Digest, ...]
    repository: str
    tag: str
    manifest: Digest

    @property
    def reference(self) -> str:
        """What to pull or run: by digest."""
        return f"{self.repository}@{self.manifest}"


def push(image: AnyImage, repository: str, engine: Engine, store: Store) -> Pushed:
    """Push an image, and note in the store under which digest the registry has it.

    Raises:
        BadInput: `repository` is none.
        PlatformError: the image is not in the engine.
        RegistryFailed: the registry does not answer, or does not let this user write.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise BadInput(
            f"{repository}: expected REGISTRY/REPOSITORY without a tag, like registry.example.com/models/digits "
            "or localhost:5000/digits"
        )
    if engine.find_image(image.digest) is None:
        raise PlatformError(
            f"the image {image.reference} ({image.digest}) is not in the engine: `slipway package` makes it again"
        )
    tag = image.reference.rpartition(":")[2]
    manifest = engine.push(image.digest, repository, tag)
    pushed = Pushed(image=image.digest, layers=image.layers, repository=repository, tag=tag, manifest=manifest)
    store.put_result(_STAGE, digest_of([pushed.repository, pushed.manifest]), pushed.model_dump_json())
    return pushed


def pull(reference: str, known: Iterable[AnyImage], engine: Engine, store: Store) -> tuple[ImageInfo, AnyImage | None]:
    """Pull `repository@sha256:…`; the image, and which of those that are `known` it is.

    Raises:
        BadInput: `reference` names no digest, or the registry has none such.
        CorruptObject: what came is not what was pushed from here under this digest.
        RegistryFailed: the registry does not answer, or does not let this user read.
    """
    parts = _BY_DIGEST.fullmatch(reference)
    if parts is None:
        raise BadInput(f"{reference}: expected REPOSITORY@sha256:…, for a tag may have been moved since it was proven")
    info = engine.pull(parts["repository"], parts["digest"])
    noted = store.get_result(_STAGE, digest_of([parts["repository"], parts["digest"]]))
    if noted is not None and (expected := Pushed.model_validate_json(noted)).layers != info.layers:
        raise CorruptObject(
            f"{reference} has other layers than were pushed: expected {', '.join(expected.layers)}, "
            f"found {', '.join(info.layers)}: do not run it"
        )
    return info, next((image for image in known if image.layers == info.layers), None)


def pushed_images(store: Store) -> Iterator[Pushed]:
    """Every image that was pushed from here, newest first."""
    for text in store.results(_STAGE):
        try:
            yield Pushed.model_validate_json(text)
        except ValidationError:  # another version of Slipway wrote it in another form
            continue
