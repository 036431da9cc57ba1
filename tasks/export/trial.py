"""Does the exported file run at all, at more sizes than it was traced with, in the runtime that will serve it?

Whether it answers correctly is parity's question. This one costs milliseconds and tells an operator that the runtime
does not have, or a size that was built in, from a wrong answer: it names the dimension.
"""

from __future__ import annotations

from pathlib import Path

import serving.runners
from serving.contract import Signature
from tasks.contracts import Owner
from tasks.export.conversion import Conversion, ExportFailure, Source, reason_of
from tasks.export.sizes import other_size, sample_inputs, shape_of, tracing_sizes


def run_once(source: Source, signature: Signature, runtime: str, folder: Path, conversion: Conversion) -> None:
    """Run the exported files at the sizes that were traced, then with each named dimension at another size.

    Raises:
        ExportFailure: it does not load, does not run, or not at every size.
    """
    try:
        runner = serving.runners.load(runtime, folder / conversion.root, signature)
    except serving.runners.RunnerError as error:
        raise _does_not_run("does not load", error, runtime) from error
    try:
        sizes = tracing_sizes(signature)
        if problem := _problem(runner, signature, sizes):
            raise _does_not_run("does not run", problem, runtime)
        for name, span in signature.dynamic.items():
            other = sizes | {name: other_size(span, sizes[name])}
            problem = _problem(runner, signature, other)
            if problem is None:
                continue
            if own := _source_problem(source, signature, other):
                raise ExportFailure(
                    "EXPORT_DIMENSION_RESTRICTED",
                    f"the model itself does not run with {name} = {other[name]}: {reason_of(own)}",
                    f"correct the range of {name} in model.yaml, or the model",
                    evidence={"dimension": name, "size": other[name]},
                    other_formats=False,
                )
            raise ExportFailure(
                "EXPORT_DIMENSION_FROZEN",
                f"the exported file runs with {name} = {sizes[name]}, which it was traced with, but not with "
                f"{name} = {other[name]}: {reason_of(problem)}",
                f"keep {name} open in the model: no int() of it, no comparison with a number, no constant of that size",
                evidence={"dimension": name, "frozen_at": sizes[name], "size": other[name]},
            )
    finally:
        runner.close()


def _problem(runner: serving.runners.Runner, signature: Signature, sizes: dict[str, int]) -> Exception | None:
    """Why the exported file has no answer of the declared shapes at these sizes, or None."""
    try:
        answers = runner.run(sample_inputs(signature, sizes))
    except serving.runners.RunnerError as error:
        return error
    given = {size for tensor in signature.inputs for size in tensor.shape}
    for tensor in signature.outputs:
        if any(isinstance(size, str) and size not in given for size in tensor.shape):
            continue  # a dimension of the output alone: its size follows from the others
        expected, found = shape_of(tensor, sizes), answers[tensor.name].shape
        if found != expected:
            return ValueError(f"output {tensor.name} has shape {list(found)} where {list(expected)} is declared")
    return None


def _source_problem(source: Source, signature: Signature, sizes: dict[str, int]) -> Exception | None:
    try:
        source.model.predict(sample_inputs(signature, sizes))
    except Exception as error:  # noqa: BLE001 -- whatever the user's model raises
        return error
    return None


def _does_not_run(what: str, error: Exception, runtime: str) -> ExportFailure:
    return ExportFailure(
        "EXPORT_DOES_NOT_RUN",
        f"the model was exported, but the file {what} in the {runtime} runtime: {reason_of(error)}",
        "rewrite the operation that the runtime names, or serve another format",
        owner=Owner.PLATFORM,
        evidence={"runtime": runtime},
    )
