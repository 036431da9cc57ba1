"""The package folder inside an image: opened only when it is what its contract says.

In: a folder with `contract.json`. Out: a `Served` model that answered a golden sample. Anything that does not hold is a
`Refused` with one sentence and an exit code of its own (`Refusal`), before any request is taken.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.contract import (
    CONTRACT_FILE,
    CONTRACT_VERSION,
    PREPROCESS_FOLDER,
    NanPolicy,
    Needs,
    ServingContract,
    Signature,
)
from serving.golden import Golden, differences, read_golden
from serving.machine import Machine
from serving.preprocess import Preprocessing, raw_signature, step_files
from serving.runners import Runner, RunnerError, load
from serving.scheduling import scheduling
from serving.tensors import BadRequest


class Refusal(IntEnum):
    """Why a server did not start: the process's exit code."""

    CONTRACT = 64  # contract.json is missing, unreadable, of another version, or does not make sense
    FILES = 65  # a file is missing or not the one that the contract names
    VERSIONS = 66  # a runtime library is not the version that the package was proven with
    MODEL = 67  # the runtime cannot load or run the model
    ANSWERS = 68  # the model's answers are not the golden ones
    ADDRESS = 69  # the port cannot be listened on
    PLATFORM = 70  # another architecture or another Python than the package is for, or no GPU that it needs
    INSTRUCTIONS = 71  # the processor lacks instructions that the model's files hold
    MEMORY = 72  # the container may not use as much memory as the model's weights alone take
    SETTINGS = 73  # an environment variable does not say what it should


class Refused(Exception):
    """The package is not served."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        self.refusal = refusal
        super().__init__(message)


class OlderContract(Refused):
    """The package was built by a Slipway that wrote contracts of an earlier version; there is nothing wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(Refusal.CONTRACT, message)


class WrongAnswer(Exception):
    """The model gave something that its signature does not allow."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is ready: raw inputs in, outputs out, as the contract has them.

    `preprocessing` runs the contract's steps; made here unless given, for steps that need no file.
    """

    contract: ServingContract
    raw: Signature
    golden: Golden
    runner: Runner
    preprocessing: Preprocessing = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        if self.preprocessing is None:
            made = Preprocessing(self.contract.preprocess, self.contract.signature)
            object.__setattr__(self, "preprocessing", made)

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer raw inputs that fit `raw`.

        Raises:
            BadRequest: preprocessing takes a value out of the range of the model's dtype.
            RunnerError: the runtime failed.
            WrongAnswer: outputs that are not the signature's.
        """
        return self.run(self.prepare(inputs))

    def prepare(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Preprocess raw inputs that fit `raw`: what the model itself takes.

        Raises:
            BadRequest: preprocessing can make nothing of a value (no image, an unknown category), or takes one out of
                the range of the model's dtype.
        """
        prepared = self.preprocessing(inputs)
        for name in {step.input for step in self.contract.preprocess}:
            values = prepared[name]
            if values.dtype.kind == "f" and not (np.isfinite(values).all() or self._is_known_nan(name, values)):
                raise BadRequest(
                    f"input {name!r}: after preprocessing a value is beyond {prepared[name].dtype}'s range"
                )
        return prepared

    def run(self, prepared: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The model's answers to what `prepare` made, of one request or of several, as its signature has them.

        Raises:
            RunnerError: the runtime failed.
            WrongAnswer: outputs that are not the signature's.
        """
        answers = self.runner.run(prepared)
        self._check(prepared, answers)
        return answers

    def rows(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        """How many rows a request has: its size along the batch dimension, 1 where the model has none."""
        return len(next(iter(inputs.values()))) if self.raw.batch else 1

    def _is_known_nan(self, name: str, values: NDArray[Any]) -> bool:
        """Whether all that is not finite is NaN, which this input may hold."""
        takes_nan = any(spec.name == name and spec.nan is NanPolicy.ACCEPT for spec in self.contract.signature.inputs)
        return takes_nan and not np.isinf(values).any()

    def _check(self, prepared: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]) -> None:
        signature = self.contract.signature
        sizes: dict[int | str, int] = {}
        for spec in signature.inputs:
            sizes.update(zip(spec.shape, prepared[spec.name].shape, strict=True))
        for spec in signature.outputs:
            answer = answers[spec.name]
            expected = tuple([size if isinstance(size, int) else sizes.get(size) for size in spec.shape])
            if answer.dtype == spec.dtype.numpy and (answer.shape == expected or _fits(answer.shape, expected)):
                continue
            shape = [size if found is None else found for size, found in zip(spec.shape, expected, strict=True)]
            raise WrongAnswer(
                f"the model gave {answer.dtype} of shape {list(answer.shape)} for output {spec.name!r}, "
                f"its contract says {spec.dtype.value} of shape {shape}"
            )


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape is the expected one; what is None is not known beforehand."""
    return len(found) == len(expected) and all(
        size in (None, given) for size, given in zip(expected, found, strict=True)
    )


def read_contract(folder: Path) -> ServingContract:
    """Decode `contract.json`: of a version that this server knows, without a key that it does not know.

    Raises:
        Refused: CONTRACT, and `OlderContract` where an earlier version of Slipway wrote it.
    """
    path = folder / CONTRACT_FILE
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Header).version()
        if version < CONTRACT_VERSION:
            has = f"is of version {version}" if version else "has no version"
            raise OlderContract(
                f"{path}: the package was built by an older Slipway (its contract {has}, this one knows version "
                f"{CONTRACT_VERSION}): package it again"
            )
        if version > CONTRACT_VERSION:
            raise Refused(
                Refusal.CONTRACT,
                f"{path} is a contract of version {version}, this server knows version {CONTRACT_VERSION}: "
                "serve it with the Slipway that built it, or a newer one",
            )
        contract = msgspec.json.decode(content, type=ServingContract)
        unknown = sorted(_unknown_keys(msgspec.json.decode(content), msgspec.to_builtins(contract)))
    except OSError as error:
        raise Refused(Refusal.CONTRACT, f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise Refused(Refusal.CONTRACT, f"{path} is not a contract: {error}") from error
    if unknown:
        raise Refused(
            Refusal.CONTRACT,
            f"{path} promises what this server does not know: {', '.join(unknown)}; build the image again",
        )
    return contract


class _Header(msgspec.Struct):
    """What tells a contract from other JSON, whatever its version."""

    contract_version: int | None = None
    signature: Any = None

    def version(self) -> int:
        """The contract's version; 0 of the first ones, which had a signature and no version."""
        if self.contract_version is None and self.signature is None:
            raise ValueError("it has neither contract_version nor signature")
        return self.contract_version or 0


def _unknown_keys(given: Any, known: Any, place: str = "") -> Iterator[str]:
    """Dotted paths of the keys in `given` that decoding it left out of `known`."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{place}{key}"
            else:
                yield from _unknown_keys(value, known[key], f"{place}{key}.")
    elif isinstance(given, list):
        for index, (value, decoded) in enumerate(zip(given, known, strict=True)):
            yield from _unknown_keys(value, decoded, f"{place}{index}.")


def contract_digest(folder: Path) -> str:
    """`sha256:` of `contract.json`, which names every file by digest: what identifies a package inside its image (the
    image's label `io.slipway.contract`)."""
    return f"sha256:{hashlib.sha256((folder / CONTRACT_FILE).read_bytes()).hexdigest()}"


def open_package(folder: Path, threads: int | None = None) -> Served:
    """Verify everything that the contract names, load the model, and let it answer one golden sample.

    An inference has `threads`, unless given as many as the contract says, or as there are CPUs.

    Raises:
        Refused
    """
    contract = read_contract(folder)
    verify_machine(contract.needs, Machine.this())
    verify_versions(contract.runtime_versions)
    verify_files(folder, contract)
    return open_verified(folder, contract, threads)


def open_verified(folder: Path, contract: ServingContract, threads: int | None = None) -> Served:
    """Load the model of a package whose files, versions and machine were verified; it has answered one golden sample.

    `threads` as for `open_package`.

    Raises:
        Refused: CONTRACT, FILES, MODEL or ANSWERS.
    """
    served = load_verified(folder, contract, threads)
    replay(served, next(served.golden.batches(served.raw, 1)))
    return served


def load_verified(folder: Path, contract: ServingContract, threads: int | None = None) -> Served:
    """`open_verified` without asking the model anything.

    Raises:
        Refused: CONTRACT, FILES or MODEL.
    """
    try:
        raw = raw_signature(contract.signature, contract.preprocess)
    except ValueError as error:
        raise Refused(Refusal.CONTRACT, f"the contract's preprocessing does not fit its signature: {error}") from error
    try:
        preprocessing = Preprocessing(contract.preprocess, contract.signature, folder / PREPROCESS_FOLDER)
    except (ValueError, ImportError) as error:
        raise Refused(Refusal.CONTRACT, f"the contract's preprocessing cannot be run here: {error}") from error
    try:
        golden = read_golden(folder / contract.golden)
    except (OSError, ValueError) as error:
        raise Refused(Refusal.FILES, f"{contract.golden} cannot be read: {error}") from error
    try:
        threads = threads or scheduling(contract).threads
        runner = load(contract.runtime, folder / contract.model, contract.signature, threads)
    except RunnerError as error:
        raise Refused(Refusal.MODEL, str(error)) from error
    return Served(contract, raw, golden, runner, preprocessing)


def replay(served: Served, golden: Golden) -> None:
    """Let the model answer golden samples.

    Raises:
        Refused: MODEL when it cannot, ANSWERS when the answer is not the golden one.
    """
    found = differences(answer(served, golden), golden.outputs, served.contract.tolerances)
    if found:
        raise Refused(Refusal.ANSWERS, unlike(found))


def unlike(found: Iterable[str]) -> str:
    """The sentence of a refusal for ANSWERS."""
    return "the model's answers are not the golden ones: " + "; ".join(found)


def answer(served: Served, golden: Golden) -> dict[str, NDArray[Any]]:
    """What the model says to golden samples, right or wrong.

    Raises:
        Refused: MODEL when it cannot answer.
    """
    try:
        return served.predict(golden.inputs)
    except (BadRequest, RunnerError, WrongAnswer, KeyError, ValueError) as error:
        raise Refused(Refusal.MODEL, f"the model cannot answer a golden sample: {error}") from error


def verify_machine(needs: Needs, machine: Machine) -> None:
    """The machine against what the package needs of it.

    Raises:
        Refused: PLATFORM, INSTRUCTIONS or MEMORY.
    """
    verify_platform(needs, machine)
    verify_instructions(needs, machine)
    verify_memory(needs, machine)


def verify_platform(needs: Needs, machine: Machine) -> None:
    """Raises Refused: PLATFORM."""
    _refuse(Refusal.PLATFORM, machine.is_another_platform(needs) or machine.lacks_gpu(needs))


def verify_instructions(needs: Needs, machine: Machine) -> None:
    """Raises Refused: INSTRUCTIONS."""
    _refuse(Refusal.INSTRUCTIONS, machine.lacks_instructions(needs))


def verify_memory(needs: Needs, machine: Machine) -> None:
    """Raises Refused: MEMORY."""
    _refuse(Refusal.MEMORY, machine.lacks_memory(needs))


def _refuse(refusal: Refusal, problem: str | None) -> None:
    if problem is not None:
        raise Refused(refusal, problem)


def verify_files(folder: Path, contract: ServingContract) -> None:
    """Size and sha256 of every file that the contract names: model, golden samples and files of steps among them.

    Raises:
        Refused: FILES, or CONTRACT when it does not name what it needs.
    """
    names = [file.path for file in contract.files]
    steps = (f"{PREPROCESS_FOLDER}/{name}" for name in step_files(contract.preprocess))
    for needed in (contract.model, contract.golden, *steps):
        if not any(name == needed or name.startswith(f"{needed}/") for name in names):
            raise Refused(Refusal.CONTRACT, f"the contract does not name the digest of {needed}")
    for file in contract.files:
        if file.path.startswith("/") or ".." in file.path.split("/"):
            raise Refused(Refusal.CONTRACT, f"the contract names {file.path}, which is not inside the package")
        try:
            with (folder / file.path).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        except OSError as error:
            raise Refused(Refusal.FILES, f"{file.path} cannot be read: {error.strerror}") from error
        if (size, digest) != (file.size_bytes, file.digest):
            raise Refused(
                Refusal.FILES,
                f"{file.path} is not the file of the contract: expected {file.size_bytes} bytes with {file.digest}, "
                f"found {size} bytes with {digest}",
            )


def verify_versions(expected: Mapping[str, str]) -> None:
    """The installed distributions against the versions that the package was proven with.

    Raises:
        Refused: VERSIONS.
    """
    installed = installed_versions(sys.path)
    wrong = [
        f"{name} {installed.get(_normal(name), 'is missing')} instead of {version}"
        for name, version in expected.items()
        if installed.get(_normal(name)) != version
    ]
    if wrong:
        raise Refused(
            Refusal.VERSIONS,
            f"the package was proven with other versions than this image has: {', '.join(wrong)}; build it again",
        )


def installed_versions(folders: Iterable[str]) -> dict[str, str]:
    """Distribution → version, from the names of the `.dist-info` folders; the first folder on the path counts.

    `importlib.metadata` says the same, and its import costs as much as the rest of this module.
    """
    versions: dict[str, str] = {}
    for folder in folders:
        try:
            entries = os.listdir(folder)  # noqa: PTH208  pathlib is slower, and this is every start
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(".dist-info"):
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                versions.setdefault(_normal(name), version)
    return versions


def _normal(name: str) -> str:
    """PEP 503's normal form, near enough for names that a lock wrote."""
    return name.lower().replace("_", "-").replace(".", "-")
