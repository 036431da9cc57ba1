"""What a person names on the command line → the package, or the image, that is meant. Pure.

A package goes by its digest, the first digits of it, or its model's name, which stands for the newest; an image by its
reference or digest, or by its package.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tasks.contracts import Image, Package
from tasks.errors import BadInput

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
            if image.reference == name.removeprefix("docker.io/") or _begins(image.digest, name):
                return package, image
    package = find_package(known, name)
    images = {image.format: image for image in package.images}
    asked = format or package.serving_format or (next(iter(images)) if len(images) == 1 else None)
    if asked not in images:
        which = f"no image as {asked}" if asked else "no format that passed every gate: choose an image with --format"
        raise BadInput(f"{package.name} {package.digest} has {which}; there are {', '.join(images) or 'none'}")
    return package, images[asked]


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


def _begins(digest: str, name: str) -> bool:
    first = name.removeprefix("sha256:")
    return len(first) >= _SHORTEST and digest.startswith(f"sha256:{first}")
