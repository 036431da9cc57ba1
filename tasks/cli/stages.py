"""Commands that run stages: `package` all of them, `verify` parity on an export that was made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.cli.arguments import spec_path, split
from tasks.cli.documents import package_document
from tasks.cli.session import AsJson, Debug, Session, opened
from tasks.errors import BadInput, SlipwayError

if TYPE_CHECKING:
    from tasks.contracts import LineageRecord, Package
    from tasks.pipeline import Runs


def package(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The model.yaml.")],
    formats: Annotated[
        list[str] | None, typer.Option(help="Only these formats (or all), by comma or repeated; else the spec's.")
    ] = None,
    instance_types: Annotated[
        list[str] | None, typer.Option(help="Only these instance types, by comma or repeated; else those of the spec.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage, also where nothing changed.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Take a trained model through every stage: ingest, export, parity, image, smoke, register.

    What did not change since the last time is not run again.
    """
    from tasks.console import Progress
    from tasks.contracts import Verdict
    from tasks.narrowing import narrowed
    from tasks.pipeline import Pipeline
    from tasks.settings import Settings
    from tasks.spec import load_spec

    asked = narrowed(load_spec(spec_path(spec)), split(formats, "--formats"), split(instance_types, "--instance-types"))
    with opened(as_json, debug) as (session, interruption), Progress(session.err, interruption.check) as progress:
        pipeline = Pipeline(Settings.from_environment(), fresh=fresh, on_event=progress)
        runs = pipeline.run(asked)
        made = pipeline.publish(asked, *runs.results())
        recorded, errors = None, list[SlipwayError](runs.errors)
        try:
            recorded = pipeline.record(made, asked)
        except SlipwayError as error:
            errors.append(error)
        _show_package(session, made, recorded, runs, errors)
    if errors:
        return max(error.exit_code for error in errors)
    return 0 if made.verdict is Verdict.PASSED else 1


def verify(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The model.yaml of the source model.")],
    format: Annotated[str, typer.Option(metavar="F", help="What the export is: onnx, savedmodel, torch-export, …")],
    artifact: Annotated[Path, typer.Option(metavar="PATH", help="The exported file, or the SavedModel's folder.")],
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report for people, HTML.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compare again, also where nothing changed.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Hold an export that was made elsewhere against its source model, with the gate of `package`."""
    from tasks.console import Progress
    from tasks.contracts import Verdict
    from tasks.pipeline import Pipeline
    from tasks.settings import Settings
    from tasks.spec import load_spec

    asked = load_spec(spec_path(spec))
    if report is not None and not report.absolute().parent.is_dir():
        raise BadInput(
            f"{report}: there is no folder {report.absolute().parent} to write the report into; make it first"
        )
    with opened(as_json, debug) as (session, interruption), Progress(session.err, interruption.check) as progress:
        pipeline = Pipeline(Settings.from_environment(), fresh=fresh, on_event=progress)
        _, compared = pipeline.verify(asked, format, artifact)
        found = compared.result
        if report is not None and found.html is not None:
            from tasks.store import fetch

            report.unlink(missing_ok=True)
            fetch(pipeline.store, found.html, report)
        folder = None
        if found.reproduction is not None:
            from tasks.parity.reproduction import written

            folder = written(found.reproduction, pipeline.store, pipeline.settings)
        session.document(
            {
                "artifact": str(artifact),
                "reused": compared.reused,
                "reproduction": None if folder is None else str(folder),
                "report": found.model_dump(mode="json"),
            }
        )
        if not as_json:
            from tasks.console import verification

            session.result(*verification(found, folder))
    return 0 if found.verdict is Verdict.PASSED else 1


def _show_package(
    session: Session, made: Package, recorded: LineageRecord | None, runs: Runs, errors: list[SlipwayError]
) -> None:
    from rich.text import Text

    from tasks.console import finding_lines, package_lines, package_table, reproduction_lines
    from tasks.memory import verdict_of

    session.document(
        {
            **package_document(made, recorded),
            "stages": [
                {
                    "stage": item.stage,
                    "label": item.label,
                    "verdict": verdict_of(item.result),
                    "reused": item.reused,
                    "duration_s": round(item.duration_s, 3),
                    "key": item.key,
                }
                for item in runs.all
            ],
            "errors": [{"kind": type(error).__name__, "message": str(error)} for error in errors],
        }
    )
    reused = sum(item.reused for item in runs.all)
    ran = ", ".join(f"{item.stage} {item.label}" for item in runs.all if not item.reused)
    session.result("", package_table([made], session.out.width), "", *package_lines(made, recorded))
    session.result(Text(f"reused {reused} of {len(runs.all)} stages" + (f"; ran {ran}" if ran and reused else "")))
    if made.findings:
        session.result("", *finding_lines(made.findings), *reproduction_lines(made))
    for error in errors:
        session.err.print(Text(f"slipway: {error}"))
