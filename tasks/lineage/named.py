"""What a person names on the command line → the package, or the image, that is meant. Pure.

A package goes by its digest, the first digits of it, or its model's name, which stands for the newest; an image by its
reference or digest, or by its package; a tuned image by its reference or digest alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tasks.contracts import Image, Package, TunedImage
from tasks.errors import BadInput
from tasks.lineage.history import Recorded

#: Fewer hexadecimal digits than this are a typing mistake, not an abbreviation.
_SHORTEST = 6


def find_package(known: Sequence[Package], name: str) -> Package:
    """The package of that name among `known`, which are the newest first.

    Raises:
        BadInput: there is none; the message suggests the nearest model's name.
    """
    named = [each for each in known if each.name == name or _begins(each.digest, name)]
    if not named:
        raise BadInput(unknown_model(name, sorted({each.name for each in known})))
    return named[0]


def find_image(known: Sequence[Package], name: str, format: str | None = None) -> tuple[Package, Image]:
    """The image of that name; of a package, the one in `format`, or else the one that serves.

    Raises:
        BadInput: there is no such package or image, or several and none of them serves.
    """
    for package in known:
        for image in package.images:
            if _is_called(image, name):
                return package, image
    package = find_package(known, name)
    images = {image.format: image for image in package.images}
    asked = format or package.serving_format or (next(iter(images)) if len(images) == 1 else None)
    if asked not in images:
        which = f"no image as {asked}" if asked else "no format that passed every gate: choose an image with --format"
        raise BadInput(f"{package.name} {package.digest} has {which}; there are {', '.join(images) or 'none'}")
    return package, images[asked]


def find_tuned(known: Sequence[Recorded], name: str) -> tuple[Package, TunedImage] | None:
    """The tuned image of that name, and the package whose image it was tuned from; `None` where no tuned image has it.

    The model's name never means one: what was packaged, and not what was tuned since, is the package.
    """
    for recorded in known:
        for tuned in recorded.tuned:
            if _is_called(tuned, name):
                return recorded.package, tuned
    return None


def find_evidenced(known: Sequence[Recorded], name: str) -> tuple[Package, TunedImage | None]:
    """What of that name was signed: a tuned image and its package, or a package, which one of its images may name.

    Raises:
        BadInput: there is neither.
    """
    if (tuned := find_tuned(known, name)) is not None:
        return tuned
    for recorded in known:
        if any(_is_called(image, name) for image in recorded.package.images):
            return recorded.package, None
    return find_package([item.package for item in known], name), None


def unknown_model(name: str, known: Sequence[str]) -> str:
    """The sentence for a name that no package has."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"known are {', '.join(sorted(known))}"
        if known
        else "nothing is packaged yet"
    )
    return f"no package of a model {name!r} is known: {hint}"


def _is_called(image: Image | TunedImage, name: str) -> bool:
    return image.reference == name.removeprefix("docker.io/") or _begins(image.digest, name)


def _begins(digest: str, name: str) -> bool:
    first = name.removeprefix("sha256:")
    return len(first) >= _SHORTEST and digest.startswith(f"sha256:{first}")
