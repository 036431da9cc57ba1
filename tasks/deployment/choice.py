"""What a person names → the package and the image that manifests are written for, and where that image is. Pure.

A package stands for its recommended format, whether or not another of its cells blocked it: manifests name what was
proven and keep everything else off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.contracts import Image, Package
from tasks.errors import BadInput, GateBlocked
from tasks.image.registry import Pushed
from tasks.lineage.named import find_image, find_package
from tasks.placement import HourlyPrice, matrix_of, recommend


def chosen(
    known: Sequence[Package], name: str, format: str | None, prices: Mapping[str, HourlyPrice]
) -> tuple[Package, Image]:
    """The image of that name, or a package's in `format`, or else in the recommended one.

    Raises:
        BadInput: there is no such package or image.
        GateBlocked: nothing of the package is proven.
    """
    try:
        package = find_package(known, name)
    except BadInput:
        return find_image(known, name, format)
    asked = format or recommend(matrix_of(package, prices)).format
    if asked is None:
        raise GateBlocked(
            f"{package.name} {package.digest} is proven in no format on no instance type, so there is nothing to "
            f"deploy: `slipway matrix {package.name}` says why"
        )
    return find_image([package], package.digest, asked)


def in_registry(image: Image, pushed: Sequence[Pushed], repository: str | None) -> str:
    """The image in a registry, by digest: the newest of `pushed`, or the one in `repository`.

    Raises:
        BadInput: it was pushed nowhere, or not there.
    """
    places = [each for each in pushed if each.image == image.digest and repository in {None, each.repository}]
    if not places:
        where = "any registry" if repository is None else repository
        raise BadInput(
            f"{image.reference} was not pushed to {where}, and a cluster pulls by a registry's digest: "
            "`slipway push` it first, or take --compose-only for this machine"
        )
    return places[0].reference
