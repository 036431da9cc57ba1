"""A bundle on disk: a folder, or a tar by its name's ending. Whole and verified, or not there at all.

    README.txt        what it is and how to use it
    contract.json     as in the image, byte for byte
    model/            the model's files
    preprocess/       files that preprocessing names, where there are any
    golden.npz        golden samples, as in the image
    golden/           the same for programs without NumPy
    SHA256SUMS        every other file; `sha256sum --check SHA256SUMS`

In: an `Origin`. Out: the path, and what was written. The folder is put together beside its destination, read back,
held against the contract and its own sums, and renamed. A tar follows from its content alone: sorted, of one date.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from serving.contract import CONTRACT_FILE, ServingContract
from serving.package import OlderContract, Refused, read_contract, verify_files
from tasks.bundle.golden import write_golden
from tasks.bundle.origin import Origin
from tasks.bundle.readme import readme
from tasks.contracts import Digest
from tasks.errors import BadInput, CorruptObject
from tasks.image.context import Context
from tasks.workspace import locked

SUMS = "SHA256SUMS"
README = "README.txt"

#: Names that promise a form which is not written: a folder of that name would be a surprise.
_OTHER_ARCHIVES = (".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".zip")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written. `contract_digest` is the image's too."""

    path: Path
    contract: ServingContract
    contract_digest: Digest
    files: int
    size_bytes: int


def write(origin: Origin, out: Path) -> Written:
    """Write the bundle to `out`, which must not be there yet; a name that ends in `.tar` is a tar, any other a folder.

    Raises:
        BadInput: `out` is there, has no folder to be in, cannot be written, or promises another form; an older Slipway
            built the package.
        CorruptObject: what was written, or what it was made of, is not what the contract says.
    """
    _check_destination(out)
    with _answering(out), locked(out.with_name(f".{out.name}.lock")), _aside(out) as folder:
        _check_destination(out)  # whoever held the lock may have written it
        contract = _fill(folder, origin)
        sums = _sums(folder)
        (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
        whole = folder
        if out.suffix == ".tar":
            whole = folder / "bundle.tar"
            name = f"{contract.name}-{contract.format}-{contract.version}"
            _write_tar(folder, [*sums, SUMS], name, whole)
            _verify_tar(whole, name, sums)
        _flush(whole)
        size = whole.stat().st_size if whole.is_file() else _size(whole)
        whole.rename(out)
        return Written(out, contract, f"sha256:{sums[CONTRACT_FILE]}", len(sums) + 1, size)


def _fill(folder: Path, origin: Origin) -> ServingContract:
    """Everything but the sums; the package's own files read back and held against its contract."""
    try:
        origin.files.copy_to(folder)
        contract = read_contract(folder)
        verify_files(folder, contract)
    except Refused as error:
        said = str(error).replace(f"{folder}/", "")  # which is gone when somebody reads this
        kind = BadInput if isinstance(error, OlderContract) else CorruptObject
        raise kind(f"the package cannot be bundled: {said}") from error
    named = {CONTRACT_FILE, *(file.path for file in contract.files)}
    if more := sorted(set(_files(folder)) - named):
        raise CorruptObject(f"the package has files that its contract does not name: {', '.join(more)}")
    write_golden(folder, contract)
    (folder / README).write_text(readme(contract, origin.package))
    return contract


def _check_destination(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise BadInput(f"{out} is already there, and nothing is overwritten: remove it, or give another name")
    if not out.parent.is_dir():
        raise BadInput(f"{out}: there is no folder {out.parent} to write it into; make it first")
    if out.name.endswith(_OTHER_ARCHIVES):
        raise BadInput(f"{out}: a bundle is a folder or an uncompressed .tar: give a name that ends in .tar")
    with _answering(out):
        tempfile.TemporaryFile(dir=out.parent).close()


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`; what a killed process left of an earlier try is removed first."""
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _answering(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror or error}") from error


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in _files(folder))


def _sums(folder: Path) -> dict[str, str]:
    """File → its sha256 in hexadecimal, read from the disk, sorted."""
    sums = {}
    for name in _files(folder):
        with (folder / name).open("rb") as stream:
            sums[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return sums


def _write_tar(folder: Path, names: list[str], top: str, path: Path) -> None:
    with path.open("x+b") as stream:
        context = Context(stream)
        for name in sorted(names):
            context.add_file(f"{top}/{name}", folder / name)
        context.finish()


def _verify_tar(path: Path, top: str, sums: dict[str, str]) -> None:
    """Read every file of the tar back.

    Raises:
        CorruptObject: one is not what was put in.
    """
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            if (content := tar.extractfile(entry)) is not None:
                digest = hashlib.file_digest(cast("io.BufferedReader", content), "sha256")
                found[entry.name.removeprefix(f"{top}/")] = digest.hexdigest()
    found.pop(SUMS)
    if found != sums:
        wrong = sorted(name for name in {*found, *sums} if found.get(name) != sums.get(name))
        raise CorruptObject(f"{path}: what was written reads back differently: {', '.join(wrong)}")


def _flush(path: Path) -> None:
    """To the disk, so that a power cut after the renaming leaves no empty files."""
    for each in [path] if path.is_file() else [path / name for name in _files(path)]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
