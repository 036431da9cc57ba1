"""The child process that runs one exporter: `python -m tasks.export.worker REQUEST OUTCOME`.

In: a `Request` as JSON. Out: an `Outcome` as JSON, written last and at once; a worker that leaves none has crashed.
Whatever exporters print goes to the worker's own stdout and stderr, which the parent keeps.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts import Owner
from tasks.export.conversion import Conversion, ExportFailure, Rows, Source, base_folder, reason_of
from tasks.export.formats import FORMATS, exporter_of
from tasks.export.onnx_file import put_weights_beside
from tasks.export.outcome import Outcome, Raised, Refused, Request, Written
from tasks.processes import die_with

if TYPE_CHECKING:
    from serving.preprocess import Preprocessing
    from tasks.export.input_spans import Span


def attempt(request: Request) -> Written | Refused | Raised:
    """Load the source, run the exporter, try the file."""
    from tasks.errors import SlipwayError

    try:
        return _export(request)
    except ExportFailure as failure:
        return Refused(
            code=failure.code,
            message=failure.message,
            advice=failure.advice,
            owner=failure.owner,
            evidence=failure.evidence,
            other_formats=failure.other_formats,
            details=traceback.format_exc(),
        )
    except SlipwayError as error:
        return Raised(error=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001 -- converters raise anything; a crash of theirs is a verdict on the pair, not ours
        return Refused(
            code="EXPORT_FAILED",
            message=f"the {request.format} exporter failed with {type(error).__name__}: {reason_of(error)}",
            advice="the full message is kept as evidence; serve another format meanwhile",
            owner=Owner.PLATFORM,
            evidence={"error": type(error).__name__},
            other_formats=True,
            details=traceback.format_exc(),
        )


def _export(request: Request) -> Written:
    from tasks.export.trial import run_once
    from tasks.ingest import load_source
    from tasks.store import open_store

    artifact, entry, store = request.artifact, FORMATS[request.format], open_store(request.store_uri)

    def preprocessing() -> Preprocessing:
        from tasks.ingest import load_preprocessing

        return load_preprocessing(artifact, request.preprocess, store, request.work)

    def calibration() -> Rows:
        from tasks.export.calibration import calibration_rows
        from tasks.ingest import load_evaluation

        evaluation = load_evaluation(artifact, store, request.work, request.preprocess)
        return calibration_rows(evaluation, preprocessing())

    def made() -> dict[str, Span]:
        from tasks.export.input_spans import spans_after

        return spans_after(preprocessing())

    model, path = load_source(artifact, store, request.work), request.work / "source" / artifact.root
    source = Source(model, path, artifact.framework, request.options, calibration, made)
    conversion = exporter_of(request.format, artifact.framework)(source, artifact.signature, request.folder)
    if request.external_data:
        put_weights_beside(request.folder / conversion.root)
        if conversion.base is not None:
            put_weights_beside(base_folder(request.folder) / conversion.base)
    run_once(source, artifact.signature, entry.runtime, request.folder, conversion)
    return Written(
        root=conversion.root,
        exporter=conversion.exporter,
        opset=conversion.opset,
        ir_version=conversion.ir_version,
        versions=_versions(conversion),
        precision=conversion.precision,
        base=conversion.base,
        needs=conversion.needs,
    )


def _versions(conversion: Conversion) -> dict[str, str]:
    versions = dict(conversion.programs)
    for name in (*conversion.distributions, "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return dict(sorted(versions.items()))


def main() -> None:
    """Read the request, write the outcome."""
    request_file, outcome_file = (Path(argument) for argument in sys.argv[1:3])
    request = Request.model_validate_json(request_file.read_text())
    die_with(request.parent)
    outcome = Outcome(result=attempt(request))
    aside = outcome_file.with_suffix(".aside")
    aside.write_text(outcome.model_dump_json())
    aside.replace(outcome_file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the outcome is written: libraries that crash while they are unloaded change nothing


if __name__ == "__main__":
    main()
