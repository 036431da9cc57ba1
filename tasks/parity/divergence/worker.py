"""The child process that asks an ONNX file for its inner values: `python -m tasks.parity.divergence.worker FOLDER`.

In: a `Request` as JSON, and what it names. Out, in the same folder: the values as `.npy`, a few at a time, and last
`done`. The file under test may crash natively (docs/adr/0002): what was written until then stays.

Memory: only so many values are asked for at once as take half of what a plain run of the file takes. To ask for inner
values as well, they are appended to the file as further outputs: a protocol buffer is extended by writing behind its
end, so the weights are never read here.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.contracts import Contract
from tasks.parity import arrays
from tasks.processes import die_with

REQUEST, PLAIN, ERROR, DONE = "request.json", "plain.npz", "error.txt", "done"
#: Values of less than this are always asked for together: it is what the interpreter and its libraries take anyway.
_LEAST_BYTES = 32 << 20


class Wanted(Contract):
    """A value of the graph, and about how many bytes it has."""

    value: str
    size_bytes: int


class Request(Contract):
    """What to ask for, in the graph's order, of so many sets of inputs.

    `given` are files with the source's version of inner values: where there are any, every operator is asked alone,
    and takes those instead of what the operators before it compute. `beside` are files that hold weights.
    """

    path: Path
    signature: Signature
    beside: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    given: dict[str, Path]
    questions: int
    parent: int


def inputs_file(folder: Path, question: int) -> Path:
    """Where a set of inputs lies."""
    return folder / f"inputs-{question}.npz"


def value_file(folder: Path, question: int, number: int) -> Path:
    """Where a value lies: the number among the wanted ones, for a set of inputs."""
    return folder / f"value-{question}-{number}.npy"


def run(request: Request, folder: Path) -> None:
    """Answer the request."""
    for name in request.beside:  # onnxruntime looks for weights beside the file
        _beside(request.path.parent / name, folder / name)
    if request.given:
        _alone(request, arrays.load(inputs_file(folder, 0)), folder)
    else:
        _whole(request, folder)


def _whole(request: Request, folder: Path) -> None:
    """The file as it is served, then the same with inner values as outputs."""
    before = _peak_bytes()
    first = arrays.load(inputs_file(folder, 0))
    arrays.save(folder / PLAIN, next(_run(request.path, request.signature, [first], ())))
    budget = max((_peak_bytes() - before) // 2, _LEAST_BYTES)
    outputs = {tensor.name for tensor in request.signature.outputs}
    sizes = [wanted.size_bytes for wanted in request.wanted]
    for group in _groups(sizes, budget):
        names = [request.wanted[number].value for number in group]
        instrumented = folder / "instrumented.onnx"
        shutil.copyfile(request.path, instrumented)
        with instrumented.open("ab") as file:
            file.write(_further_outputs(name for name in names if name not in outputs))
        questions = (arrays.load(inputs_file(folder, question)) for question in range(request.questions))
        for question, found in enumerate(_run(instrumented, request.signature, questions, names)):
            for number, name in zip(group, names, strict=True):
                _keep(value_file(folder, question, number), found[name])


def _alone(request: Request, inputs: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Pieces of the file, each given the source's values; a piece that cannot be run is left out."""
    import onnx

    from tasks.parity.divergence.cut import Pieces, given_name

    kinds = {name: np.load(path, mmap_mode="r").dtype for name, path in request.given.items()}
    pieces = Pieces(onnx.load(request.path, "protobuf", load_external_data=False), kinds)
    sizes = [wanted.size_bytes + pieces.weights_bytes(wanted.value) for wanted in request.wanted]
    budget = max(max(sizes, default=0), _LEAST_BYTES)

    def ask(group: Sequence[int]) -> None:
        names = [request.wanted[number].value for number in group]
        part = pieces.piece(names)
        taken = [item.name for item in part.graph.input]
        (folder / "piece.onnx").write_bytes(part.SerializeToString())
        del part
        given = {given_name(name): path for name, path in request.given.items()}
        feed = {name: np.load(given[name]) if name in given else inputs[name] for name in taken}
        for found in _run(folder / "piece.onnx", _named(taken, ()), [feed], names):
            for number, name in zip(group, names, strict=True):
                _keep(value_file(folder, 0, number), found[name])

    from serving.runners import RunnerError

    for group in _groups(sizes, budget):
        try:
            ask(group)
        except RunnerError:
            for number in group:  # one operator that refuses the source's value (another shape) spoils no other
                try:
                    ask([number])
                except RunnerError:
                    continue


def _run(
    path: Path, signature: Signature, questions: Iterable[Mapping[str, NDArray[Any]]], further: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Load the file as it is served and ask it, for the signature's outputs or for `further` ones instead."""
    from serving.runners import load

    asked = _named([tensor.name for tensor in signature.inputs], further) if further else signature
    runner = load("onnx", path, asked)
    try:
        for inputs in questions:
            yield runner.run(inputs)
    finally:
        runner.close()


def _named(inputs: Iterable[str], outputs: Iterable[str]) -> Signature:
    """A signature of which only the names are looked at."""
    return Signature(
        tuple(TensorSpec(name, DType.FLOAT32, ()) for name in inputs),
        tuple(TensorSpec(name, DType.FLOAT32, ()) for name in outputs),
    )


def _further_outputs(names: Iterable[str]) -> bytes:
    """What extends a serialised model by outputs: repeated fields of messages that follow each other are joined
    (Protocol Buffers, "Encoding", section "Last One Wins")."""
    import onnx

    extension = onnx.ModelProto()
    for name in names:
        extension.graph.output.add().name = name
    return bytes(extension.SerializeToString())


def _groups(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of neighbours that together stay within the budget; one that is larger stands alone."""
    group: list[int] = []
    total = 0
    for number, size in enumerate(sizes):
        if group and total + size > budget:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group


def _keep(path: Path, value: Any) -> None:
    """Tensors of numbers; sequences, maps and element types that NumPy does not know have nothing to compare with."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        np.save(path, value, allow_pickle=False)


def _beside(source: Path, target: Path) -> None:
    """A copy: onnxruntime and ONNX take a link, soft or hard, for an attack."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Read the request, run it; what the runtime says against it goes into a file of its own."""
    from serving.runners import RunnerError

    folder = Path(sys.argv[1])
    request = Request.model_validate_json((folder / REQUEST).read_text())
    die_with(request.parent)
    try:
        run(request, folder)
    except RunnerError as error:
        (folder / ERROR).write_text(str(error))
    (folder / DONE).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is written: libraries that crash while they are unloaded change nothing


if __name__ == "__main__":
    main()
