"""`slipway score`: a file on this machine through a serving image, answers into another file here.

Nothing is mounted: rows go to the container's standard input and answers come from its standard output
(`serving.score.frames`), so it does not matter that the container's user can neither read nor write the files, nor
where the engine runs. Files are read and written here, Parquet too, for which the images have no library.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, NoReturn

import msgspec

from serving.contract import ServingContract, Signature
from serving.preprocess import raw_signature
from serving.score.files import BETWEEN_PIPES, Form, between, check_names, form_of, open_reader, writing
from serving.score.frames import FrameReader, FrameWriter
from serving.score.rows import Reader, Unscorable, Writer
from serving.score.scoring import Progress, batch_rows, checked, no_answers
from tasks.contracts import Digest
from tasks.errors import BadInput, EngineUnavailable, PlatformError
from tasks.image import connect
from tasks.image.engine import Engine, owner_labels, serving_image

#: As locked down as every container of Slipway's; see `tasks.image.engine.ContainerSpec`.
_LOCKED = ("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

#: What the docker command itself ends with: its own error, and an image without that program.
_DOCKERS_OWN = (125, 126, 127)
_UNSCORABLE = 2  # serving.score.command

#: The engine that was asked for the image is at DOCKER_HOST or at the local socket (`tasks.image.connect`); without
#: this, a context of the docker command's own might send the rows to another.
_SAME_ENGINE = {"DOCKER_CONTEXT": "default"}

#: Rows that an answer may bring at once: as many as were sent.
_WHOLE = 1 << 31


@dataclass(frozen=True, slots=True)
class Scored:
    """What was scored."""

    image: str
    model: str
    version: str
    rows: int


@dataclass(frozen=True, slots=True)
class _Subject:
    """An image in the engine, what it was called, and what its model takes and gives."""

    asked: str
    id: Digest
    contract: ServingContract
    raw: Signature


def score(
    image: str,
    source: str,
    target: str,
    rows: int | None,
    progress: IO[str],
    pipe: IO[bytes],
    connected: Callable[[], Engine] = connect,
) -> Scored:
    """Answer every row of `source` with the model in `image`; `target` appears when all are there.

    `rows` go to the model at once; as many as the package says, unless given. The name `-` is CSV on standard input, or
    on `pipe`. What is wrong with the files' names is said before the engine is asked for anything.

    Raises:
        BadInput: a file that does not fit, with row and column, or an image that is not there.
        EngineUnavailable: no engine answers, or there is no docker command.
        PlatformError: the container failed.
    """
    try:
        forms = form_of(source, None), form_of(target, None)
        check_names(source, target)
        subject = _subject(image, connected())
        size = batch_rows(subject.contract, subject.raw, rows)
        reader = open_reader(source, forms[0], subject.raw)
        done = Progress(reader.total, progress)
        with writing(target, forms[1], subject.contract.signature, pipe) as writer, between(source, target):
            _through(subject, reader, writer, size, done)
        done.done()
    except Unscorable as error:
        raise BadInput(str(error)) from error
    return Scored(image, subject.contract.name, subject.contract.version, done.rows)


def _subject(asked: str, engine: Engine) -> _Subject:
    image = serving_image(engine, asked)
    done = _docker("run", "--rm", "--pull=never", *_LOCKED, image.id, "contract")
    if done.returncode:
        _raise(asked, done.returncode, done.stderr.decode(errors="replace"))
    try:
        contract = msgspec.json.decode(done.stdout, type=ServingContract)
        return _Subject(asked, image.id, contract, raw_signature(contract.signature, contract.preprocess))
    except (msgspec.DecodeError, ValueError) as error:
        raise BadInput(
            f"{asked} has a contract that this Slipway does not understand ({error}): package the model again"
        ) from error


def _through(subject: _Subject, reader: Reader, writer: Writer, size: int, progress: Progress) -> None:
    with _container(subject.id, size) as (process, said):
        assert process.stdin is not None  # noqa: S101  both are pipes
        assert process.stdout is not None  # noqa: S101
        feeder = _Feeder(process.stdin, reader, subject.raw, size, progress)
        feeder.start()
        answered = 0
        try:
            for answers in FrameReader(process.stdout).batches(_WHOLE):
                writer.append(answers)
                answered += len(next(iter(answers.values())))
        except Unscorable:
            feeder.join()
            if feeder.error is not None:
                raise feeder.error from None
            code = process.wait()
            said.seek(0)
            _raise(subject.asked, code, said.read().decode(errors="replace"))
        feeder.join()
        if feeder.error is not None:
            raise feeder.error
        if answered != progress.rows:
            raise PlatformError(f"{subject.asked} gave {answered} answers to {progress.rows} rows: report this")
        if not answered:
            writer.append(no_answers(subject.contract.signature))


class _Feeder(threading.Thread):
    """Writes the rows to the container, while its answers are read. `error` is why it stopped before the end.

    The reader is closed here: from elsewhere that would wait for a read that may never end (a pipe, a network drive).
    """

    def __init__(self, stream: IO[bytes], reader: Reader, raw: Signature, size: int, progress: Progress) -> None:
        super().__init__(name="feeder", daemon=True)
        self._stream = stream
        self._reader = reader
        self._batches = checked(reader, raw, size, progress)
        self.error: Exception | None = None

    def run(self) -> None:
        writer = FrameWriter(self._stream)
        # A container that has ended does not read any more: what it said is the reason, not the closed pipe.
        with contextlib.suppress(BrokenPipeError):
            try:
                for batch in self._batches:
                    writer.append(batch)
                writer.finish()
            except BrokenPipeError:
                raise
            except Exception as error:  # noqa: BLE001  raised again by whoever waits
                self.error = error
            finally:
                self._reader.close()
                self._stream.close()


@contextlib.contextmanager
def _container(image: Digest, size: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The container at work on a pipe, and what it says on standard error; it is gone at the end, whatever happens."""
    name = f"slipway-score-{uuid.uuid4().hex[:12]}"
    labels = [part for key, value in owner_labels("score").items() for part in ("--label", f"{key}={value}")]
    command = ["docker", "run", "--rm", "--pull=never", "--interactive", "--name", name, *labels, *_LOCKED, image]
    command += ["score", "-", "-"]
    command += ["--input-form", Form.TENSORS, "--output-form", Form.TENSORS, "--batch-rows", str(size), "--quiet"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, **_SAME_ENGINE},
            start_new_session=True,  # Ctrl-C is ours alone: the container is removed below
        )
        try:
            yield process, said
            process.wait()
        finally:
            if process.poll() is None:
                _docker("rm", "--force", name)
                process.kill()
                process.wait()


def _docker(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, check=False, env={**os.environ, **_SAME_ENGINE}
        )
    except FileNotFoundError as error:
        raise EngineUnavailable("there is no docker command: install Docker's command line (`make setup`)") from error


def _raise(image: str, code: int, said: str) -> NoReturn:
    """The container's own last words, as the error that they are.

    Raises:
        Unscorable, PlatformError
    """
    lines = [line.strip() for line in said.splitlines() if line.strip() and "docker run --help" not in line]
    last = (lines or ["it did not say why"])[-1].removeprefix("docker: ")
    if code == _UNSCORABLE:
        raise Unscorable(last.removeprefix("score: ").removeprefix(BETWEEN_PIPES))
    if code in _DOCKERS_OWN:
        raise PlatformError(f"the container of {image} could not be run: {last}")
    raise PlatformError(f"the container of {image} ended with exit code {code}: {last.removeprefix('score: ')}")
