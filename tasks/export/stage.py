"""The stage itself: an Artifact and a format → an ExportReport.

formats.py       which formats there are, and which module makes each from which framework
child.py         runs one exporter in a process of its own
worker.py        that process: loads the source, exports, tries the file
outcome.py       what goes in there and what comes out
<x>_to_<y>.py    the exporters
conversion.py    what they are given and answer, and how they say that they cannot
onnx_file.py, savedmodel_folder.py     what is done to a file whoever made it
torch_*.py, tf_*.py                    what exporters of one framework share
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import tasks.errors
from tasks.contracts import Artifact, Base, Export, ExportReport, Finding, Verdict
from tasks.errors import BadInput, SlipwayError
from tasks.export import child
from tasks.export.conversion import base_folder
from tasks.export.formats import FORMATS, formats_of
from tasks.export.outcome import Raised, Refused, Written
from tasks.store import Store, put_tree

if TYPE_CHECKING:
    from tasks.spec import ModelSpec


def export(spec: ModelSpec, artifact: Artifact, format: str, store: Store, work: Path) -> ExportReport:
    """Write the model in one format. A model that cannot be written so is a failed report, not an exception.

    Raises:
        BadInput: the framework cannot give this format, or the source cannot be read.
        PlatformError: the store does not answer, or what is installed is not what will serve.
    """
    if format not in formats_of(artifact.framework):
        gives = ", ".join(formats_of(artifact.framework)) or "none"
        raise BadInput(f"a {artifact.framework} model cannot be written as {format!r}; it gives {gives}")
    tried = _try(spec, artifact, format, store, work / "export")
    if isinstance(tried.result, Raised):
        raise _error(tried.result)
    if isinstance(tried.result, Written):
        return ExportReport(format=format, verdict=Verdict.PASSED, export=_stored(tried.result, format, tried, store))
    working = _formats_that_work(spec, artifact, tried.result, format, store, work)
    finding = _finding(tried.result, tried.log, working, store)
    return ExportReport(format=format, verdict=Verdict.FAILED, findings=(finding,))


def _try(spec: ModelSpec, artifact: Artifact, format: str, store: Store, work: Path) -> child.Attempt:
    return child.run(
        artifact,
        format,
        store.uri,
        work,
        preprocess=spec.preprocess,
        options=spec.export,
        external_data=spec.export.external_data and FORMATS[format].is_onnx,
    )


def _stored(written: Written, format: str, tried: child.Attempt, store: Store) -> Export:
    base = written.base and Base(files=put_tree(store, base_folder(tried.folder)), root=written.base)
    return Export(
        format=format,
        runtime=FORMATS[format].runtime,
        files=put_tree(store, tried.folder),
        root=written.root,
        exporter=written.exporter,
        opset=written.opset,
        ir_version=written.ir_version,
        versions=written.versions,
        precision=written.precision,
        base=base or None,
        needs=written.needs,
    )


def _formats_that_work(
    spec: ModelSpec, artifact: Artifact, refused: Refused, format: str, store: Store, work: Path
) -> tuple[str, ...] | None:
    """The other formats that this very model can be written in, each tried, save compiled ones.

    None where they share what failed.
    """
    if not refused.other_formats:
        return None
    others = [name for name in formats_of(artifact.framework) if name != format and not FORMATS[name].is_compiled]
    attempts = ((name, _try(spec, artifact, name, store, work / f"try-{name}")) for name in others)
    return tuple(name for name, tried in attempts if isinstance(tried.result, Written))


def _finding(refused: Refused, log: str, working: tuple[str, ...] | None, store: Store) -> Finding:
    advice = refused.advice
    if working:
        advice += f"; this model can be written as {' and '.join(working)}"
    elif working == ():
        advice += "; no other format works for this model"
    digest, _ = store.put_stream(io.BytesIO(f"{refused.details}\n\n--- output ---\n{log}".encode()))
    return Finding(
        code=refused.code,
        owner=refused.owner,
        message=refused.message,
        advice=advice,
        evidence={**refused.evidence, "working_formats": ", ".join(working or ()), "details": digest},
    )


def _error(raised: Raised) -> SlipwayError:
    kind = getattr(tasks.errors, raised.error, tasks.errors.PlatformError)
    error: SlipwayError = kind(raised.message)
    return error
