"""What `slipway bundle` was asked for: which package, what its gates said, and where its files are.

In: a model's name, a digest or an image, and the packages that the store knows. Out: an `Origin`, whose verdict is
passed, or an error that says why there is none. A package that did not pass is never an origin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving.contract import CONTRACT_FILE
from serving.package import contract_digest, read_contract
from tasks.contracts import Digest, Image, Package, TunedImage, Verdict
from tasks.errors import BadInput, CorruptObject, GateBlocked, PlatformError
from tasks.figures import short
from tasks.image.engine import CONTRACT_LABEL, Engine, serving_image
from tasks.image.sbom import LICENCES_FILE, SBOM_FILE
from tasks.lineage.named import unknown_model
from tasks.store import Store, fetch

#: Fewer hexadecimal digits than this are a typing mistake, not an abbreviation.
_SHORTEST = 6
_DIGEST = re.compile(rf"(sha256:)?[0-9a-f]{{{_SHORTEST},64}}")

#: Where an image has its package (tasks.image.build).
_IN_IMAGE = "/package"

#: On a serving image: its format.
_FORMAT_LABEL = "io.slipway.format"


class Files(Protocol):
    """Where a package's files are."""

    def copy_to(self, folder: Path) -> None:
        """Write `contract.json` and every file that it names below `folder`.

        Raises:
            CorruptObject: bytes are not the ones that their digest names.
            PlatformError: the files cannot be had.
        """


@dataclass(frozen=True, slots=True)
class Origin:
    """A package to be bundled. `package` is `None` where the store knows no verdict of the image."""

    files: Files
    package: Digest | None


def find(
    asked: str,
    format: str | None,
    known: Sequence[Package],
    store: Store,
    engine: Callable[[], Engine],
    *,
    unknown: bool = False,
    tuned: Sequence[TunedImage] = (),
) -> Origin:
    """The package that `asked` names: a model, the digest of a package or an image (or its first digits), an image.

    `known` are the store's packages, newest first; `engine` connects to the engine, where one has to be asked.
    `tuned` are the images that were tuned from theirs; such an image is asked for by its own name or digest.
    With `unknown`, also an image that no known package has; that is for whoever knows better than this store.

    Raises:
        BadInput: there is no such thing, or not in that format.
        GateBlocked: the package did not pass, or nothing is known of the image.
        EngineUnavailable: an image was asked for, and no engine answers.
    """
    of_model = [package for package in known if package.name == asked]
    if of_model:
        return _stored(of_model[0], format, known, store)
    if _DIGEST.fullmatch(asked):
        beginning = f"sha256:{asked.removeprefix('sha256:')}"
        for package in known:
            if package.digest.startswith(beginning):
                return _stored(package, format, known, store)
        for package in known:
            for image in package.images:
                if image.digest.startswith(beginning):
                    return _stored(package, _one_format(image.format, format, asked), known, store)
    elif not re.search("[:/@]", asked):
        raise BadInput(f"{unknown_model(asked, [item.name for item in known])} (an image is given as NAME:TAG)")
    return _in_engine(asked, format, known, tuned, engine(), unknown=unknown)


def _stored(package: Package, format: str | None, known: Sequence[Package], store: Store) -> Origin:
    _check_passed(package, known)
    wanted = format or package.serving_format
    image = next((image for image in package.images if image.format == wanted), None)
    if image is None:
        formats = ", ".join(image.format for image in package.images)
        raise BadInput(f"{package.name} has no {wanted}: its formats are {formats}")
    return Origin(StoredFiles(store, image), package.digest)


def _in_engine(
    asked: str,
    format: str | None,
    known: Sequence[Package],
    tuned: Sequence[TunedImage],
    engine: Engine,
    *,
    unknown: bool,
) -> Origin:
    found = serving_image(engine, asked, ", and the store no package")
    files = ImageFiles(engine, found.id, found.labels[CONTRACT_LABEL])
    tuned_from = {image.package for image in tuned if image.digest == found.id}
    for package in known:
        if package.digest in tuned_from or found.id in {image.digest for image in package.images}:
            _one_format(found.labels.get(_FORMAT_LABEL, ""), format, asked)
            _check_passed(package, known)
            return Origin(files, package.digest)
    _one_format(found.labels.get(_FORMAT_LABEL, ""), format, asked)
    if not unknown:
        raise GateBlocked(
            f"no package in this store has the image {asked}, so whether it passed its gates is not known here: "
            "bundle it where it was packaged, or say --unknown where you know that it passed"
        )
    return Origin(files, None)


def _check_passed(package: Package, known: Sequence[Package]) -> None:
    if package.verdict is Verdict.PASSED:
        return
    passed = next((item for item in known if item.name == package.name and item.verdict is Verdict.PASSED), None)
    last = f"; its last one that passed is {short(passed.digest)}" if passed else ""
    raise GateBlocked(
        f"{package.name}: package {short(package.digest)} {package.verdict}, and what did not pass is not bundled: "
        f"`slipway status {package.name}` says why{last}"
    )


def _one_format(has: str, wanted: str | None, asked: str) -> str:
    if wanted not in {None, has}:
        raise BadInput(f"{asked} is an image of {has}, not of {wanted}: leave --format out, or name the model")
    return has


# --- where files are ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """The store has everything that the image was made of; no engine is needed."""

    store: Store
    image: Image

    def copy_to(self, folder: Path) -> None:
        if self.image.contract is None:
            raise PlatformError(
                f"the image {self.image.reference} was built by a Slipway that did not store contracts: "
                "run `slipway package` on its model again"
            )
        fetch(self.store, self.image.contract, folder / CONTRACT_FILE)
        for file in read_contract(folder).files:
            fetch(self.store, file, folder / file.path)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The package folder of an image in the engine. That its files are the contract's is for the reader to verify."""

    engine: Engine
    image: Digest
    contract: Digest

    def copy_to(self, folder: Path) -> None:
        self.engine.copy_out(self.image, _IN_IMAGE, folder)
        for name in (SBOM_FILE, LICENCES_FILE):  # of the image's own libraries, which stay behind
            (folder / name).unlink(missing_ok=True)
        found = contract_digest(folder)
        if found != self.contract:
            raise CorruptObject(
                f"the image {short(self.image)} says that its contract is {self.contract}, and holds {found}: "
                "it was changed after it was built; package the model again"
            )
