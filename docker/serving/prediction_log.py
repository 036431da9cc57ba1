"""The sampled record of predictions: what release and monitoring replay. Opt-in, bounded, redactable.

In: outcomes. Out: JSON lines in a folder, `predictions-<start>-<process>-<number>.jsonl`, each a whole answered request
with its raw inputs and outputs (`serving.tensor_record`). `read` gives them back bit by bit, so that `Served.predict`
can be asked again. Whether a request is recorded follows from its id alone: every replica and every version picks the
same ones. Whatever the disk does, serving goes on; what could not be written is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import reprlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from serving.contract import PredictionLog, ServingContract, Signature
from serving.log import log
from serving.observation import Outcome
from serving.spool import Spool
from serving.tensor_record import TensorRecord, pack, unpack

N = TypeVar("N", int, float)

#: Where predictions go when only the package asks for them: a mount of the deployment's.
DEFAULT_FOLDER = Path("/predictions")

#: Bytes of requests that may wait for the disk.
_MOST_WAITING = 32 << 20
#: The bound is kept by removing whole files: one in so many parts of it is lost at once.
_PARTS = 8
#: Seconds that the last records have when the process ends.
_LAST_S = 2.0
_FILES = "predictions-*.jsonl"
#: Bytes of a keyed hash: no two values of one input meet by chance.
_HASH_BYTES = 16


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the file."""

    id: str
    time: float
    model: str
    version: str
    package: str
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    hashed: dict[str, list[str]] = {}
    omitted: list[str] = []


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered request: raw inputs and outputs by name, `time` in seconds since the epoch.

    `hashed` has a word for each row of an input whose values were not to be kept; `omitted` names what was left out.
    """

    id: str
    time: float
    model: str
    version: str
    package: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    hashed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether a model can be asked again: nothing was left out of its inputs."""
        return not self.hashed and not self.omitted


def read(path: Path) -> Iterator[Prediction]:
    """Every prediction of a file, or of all files of a folder, oldest file first.

    A last line that was cut off by the end of its process is left out.

    Raises:
        OSError: there is no such file or folder.
        ValueError: a line is no record; it says which.
    """
    for file in sorted(path.glob(_FILES)) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.endswith(b"\n"):
                    yield _prediction(line, f"{file}:{number}")


def is_sampled(identity: str, rate: float) -> bool:
    """Whether a request is among the recorded: the same answer wherever it is asked."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < rate * 2**64


def settings(
    contract: ServingContract, raw: Signature, environment: Mapping[str, str] = os.environ
) -> tuple[Path, PredictionLog] | None:
    """Where and what to record: the package's own wish, changed by SERVING_PREDICTION_LOG and its companions.

    The environment chooses the folder (`off` for none), rate and bound; inputs that it leaves out or hashes come on top
    of the package's. All of it must make sense, also while nothing is recorded.

    Raises:
        ValueError: a variable does not say what it should.
    """
    name = "SERVING_PREDICTION_LOG"
    where, wish = environment.get(name, ""), contract.prediction_log
    asked = wish or PredictionLog()
    sample = _number(f"{name}_SAMPLE", environment, float, lambda share: 0 < share <= 1, "above 0 and at most 1")
    max_mb = _number(f"{name}_MAX_MB", environment, int, lambda bound: bound >= 1, "that is whole and at least 1")
    omit, hashed = _names(environment.get(f"{name}_OMIT")), _names(environment.get(f"{name}_HASH"))
    _check_known("the package's prediction log", {*asked.omit, *asked.hash}, raw)
    _check_known(f"{name}_OMIT", omit, raw)
    _check_known(f"{name}_HASH", hashed, raw)
    if where == "off" or (not where and wish is None):
        return None
    changed = replace(
        asked,
        sample=sample or asked.sample,
        max_mb=max_mb or asked.max_mb,
        omit=(*asked.omit, *omit),
        hash=(*asked.hash, *hashed),
    )
    return Path(where) if where else DEFAULT_FOLDER, changed


class Recorder:
    """The observer that records. `lost` and `failed` count what did not fit into memory, and what the disk refused."""

    def __init__(self, folder: Path, asked: PredictionLog, contract: ServingContract, package: str, key: bytes) -> None:
        self._rate = asked.sample
        self._redaction = (frozenset(asked.omit), frozenset(asked.hash) - frozenset(asked.omit))
        self._about = (contract.name, contract.version, package)
        self._key = key[: hashlib.blake2b.MAX_KEY_SIZE]
        self._segments = _Segments(folder, asked.max_mb << 20)
        self._spool: Spool[tuple[float, Outcome] | None] = Spool(self._write, _MOST_WAITING, "predictions")
        self.written = self.failed = 0
        self._spool.put(None, 0)  # first of all, before any request

    @property
    def lost(self) -> int:
        return self._spool.lost

    def observe(self, outcome: Outcome) -> None:
        if outcome.error or outcome.answer is None or outcome.inputs is None or outcome.id is None:
            return
        if is_sampled(outcome.id, self._rate):
            size = sum(map(_held, outcome.inputs.values())) + sum(map(_held, outcome.answer.outputs.values()))
            self._spool.put((time.time(), outcome), size)

    def close(self) -> None:
        self._spool.close(_LAST_S)
        self._segments.close()

    def _write(self, items: list[tuple[float, Outcome] | None]) -> None:
        for item in items:
            if item is None:
                self._try()
                continue
            moment, outcome = item
            try:
                self._segments.append(msgspec.json.encode(self._record(moment, outcome)) + b"\n")
                self.written += 1
            except (OSError, TypeError) as error:
                self.failed += 1
                if self.failed == 1:  # the metric says how often
                    log("a prediction could not be recorded", error=f"{type(error).__name__}: {error}")

    def _try(self) -> None:
        """Say at the start, not at the first request, that the folder takes nothing. In the thread: it may be slow."""
        try:
            self._segments.check()
        except OSError as error:
            log(
                "predictions cannot be recorded",
                folder=str(self._segments.folder),
                error=str(error),
                advice=f"mount a folder that user {os.getuid()} may write to, or set SERVING_PREDICTION_LOG=off",
            )

    def _record(self, moment: float, outcome: Outcome) -> _Record:
        inputs, answer = outcome.inputs, outcome.answer
        assert inputs is not None  # noqa: S101  observe() saw to it
        assert answer is not None  # noqa: S101
        omitted, hashed = self._redaction
        model, version, package = self._about
        return _Record(
            id=outcome.id or "",
            time=moment,
            model=model,
            version=version,
            package=package,
            inputs={name: pack(array) for name, array in inputs.items() if name not in omitted | hashed},
            outputs={name: pack(array) for name, array in answer.outputs.items()},
            hashed={name: self._hashes(inputs[name]) for name in sorted(hashed & inputs.keys())},
            omitted=sorted(omitted & inputs.keys()),
        )

    def _hashes(self, array: NDArray[Any]) -> list[str]:
        """A word per row (of a scalar, one): equal rows, equal words."""
        rows = [array[index : index + 1] for index in range(len(array))] if array.ndim else [array]
        encoded = (msgspec.msgpack.encode(pack(row)) for row in rows)
        return [hashlib.blake2b(row, key=self._key, digest_size=_HASH_BYTES).hexdigest() for row in encoded]


class _Segments:
    """Files of a folder that together stay below a bound; used by one thread."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._each = most_bytes // _PARTS
        self._prefix = f"predictions-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(4).hex()}"
        self._number = 0
        self._stream: FileIO | None = None
        self._size = 0

    def check(self) -> None:
        """Raises:
        OSError: there is no such folder, or no file can be made in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.folder} is not writable for user {os.getuid()}")

    def append(self, line: bytes) -> None:
        """Write a line, whole or not at all.

        Raises:
            OSError: the disk does not take it, or it is longer than all files may be together.
        """
        if len(line) > self._most_bytes:
            raise OSError(f"a record of {len(line)} bytes is more than all may be together ({self._most_bytes})")
        if self._stream is None or (self._size and self._size + len(line) > self._each):
            self._next(len(line))
        stream = self._stream
        assert stream is not None  # noqa: S101  opened by _next
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            self._cut(stream)
            raise
        self._size += len(line)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _cut(self, stream: FileIO) -> None:
        """Take back the beginning of a line: no other may follow it. Where not even that works, another file begins."""
        try:
            stream.truncate(self._size)
            stream.seek(self._size)
        except OSError:
            self.close()

    def _next(self, needed: int) -> None:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(max(self._each, needed))
        self._number += 1
        # Unbuffered: what was not written must not come later, between other lines.
        self._stream = (self.folder / f"{self._prefix}-{self._number:06d}.jsonl").open("xb", buffering=0)
        self._size = 0

    def _make_room(self, needed: int) -> None:
        """Remove the oldest files until `needed` bytes more stay within the bound; those of earlier processes too."""
        files = [(file, file.stat()) for file in self.folder.glob(_FILES)]
        total = sum(status.st_size for _, status in files)
        for file, status in sorted(files, key=lambda item: (item[1].st_mtime_ns, item[0].name)):
            if total + needed <= self._most_bytes:
                return
            file.unlink(missing_ok=True)
            total -= status.st_size


def _prediction(line: bytes, where: str) -> Prediction:
    try:
        record = msgspec.json.decode(line, type=_Record)
        return Prediction(
            id=record.id,
            time=record.time,
            model=record.model,
            version=record.version,
            package=record.package,
            inputs={name: unpack(tensor) for name, tensor in record.inputs.items()},
            outputs={name: unpack(tensor) for name, tensor in record.outputs.items()},
            hashed={name: tuple(words) for name, words in record.hashed.items()},
            omitted=tuple(record.omitted),
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{where} is no record of a prediction: {error}") from error


def _held(array: NDArray[Any]) -> int:
    """Bytes that an array holds; of strings, their characters as well."""
    if array.dtype != object:
        return array.nbytes
    return array.nbytes + sum(map(len, array.reshape(-1).tolist()))


def _number(
    name: str, environment: Mapping[str, str], kind: Callable[[str], N], holds: Callable[[N], bool], expected: str
) -> N | None:
    """What a variable says, None where it says nothing.

    Raises:
        ValueError: it is not as expected.
    """
    text = environment.get(name)
    if not text:
        return None
    with contextlib.suppress(ValueError):
        if holds(value := kind(text)):
            return value
    raise ValueError(f"{name}: expected a number {expected}, found {reprlib.repr(text)}")


def _names(listed: str | None) -> list[str]:
    return [name for name in re.split(r"[,\s]+", listed or "") if name]


def _check_known(who: str, names: Collection[str], raw: Signature) -> None:
    """Raises:
    ValueError: one is no input of the model.
    """
    known = {spec.name for spec in raw.inputs}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"{who} cannot leave out {', '.join(unknown)}: the inputs are {sorted(known)}")
