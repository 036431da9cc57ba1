"""`smoke`: a packaged image on instance types, whoever packaged it and whenever."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.cli.arguments import split
from tasks.cli.session import AsJson, Debug, Session, opened
from tasks.errors import BadInput, PlatformError, SlipwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.contracts import Image, Package, SmokeRun, TunedImage
    from tasks.image.engine import Engine, ImageInfo
    from tasks.lineage import Recorded
    from tasks.memory import Event
    from tasks.settings import Settings
    from tasks.smoke.served import ServedImage


def smoke(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|MODEL",
            help="A serving image, also a tuned one: tag or digest; or a model's name, whose newest image that serves "
            "is meant.",
        ),
    ],
    instance_type: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="Instance types, by comma or repeated; else those the package was proven on."),
    ] = None,
    format: Annotated[str | None, typer.Option(metavar="F", help="Of a model, the image in this format.")] = None,
    p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", min=0.01, help="The budget; else the one it was packaged with.")
    ] = None,
    cold_start_s: Annotated[
        float | None, typer.Option(metavar="S", min=0.01, help="The budget; else the one it was packaged with.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run it again, also where it passed before.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Run a packaged image under the limits of instance types, and hold it to its golden answers and budgets.

    What passed before on this machine, with the same budgets, is not run again.
    """
    from tasks.console import Progress
    from tasks.contracts import Verdict
    from tasks.lineage import packages
    from tasks.narrowing import refuse_unknown_types
    from tasks.pipeline import Pipeline
    from tasks.settings import Settings
    from tasks.smoke.served import open_image
    from tasks.workspace import scratch

    asked = tuple(dict.fromkeys(split(instance_type, "--instance-type")))
    refuse_unknown_types(asked)
    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, interruption), Progress(session.err, interruption.check) as progress:
        pipeline = Pipeline(settings, fresh=fresh, on_event=progress)
        package, there = _found(image, format, list(packages(pipeline.store)), pipeline.engine)
        types = asked or (package.inputs.instance_types if package else ())
        if not types:
            raise BadInput(f"no package in this store has the image {image}, so say which --instance-type")
        with scratch(settings.work) as work:
            served = open_image(
                there, image, pipeline.engine, pipeline.store, work, p99_ms=p99_ms, cold_start_s=cold_start_s
            )
        errors: list[PlatformError] = []
        if len(types) == 1:
            runs = [pipeline.smoke(served, served.image, served.parity, types[0])]
        else:
            runs, errors = _several(served, types, settings, fresh, progress)
        _show(session, served, runs, errors)
    if errors:
        return max(error.exit_code for error in errors)
    return 0 if all(run.result.verdict is Verdict.PASSED for run in runs) else 1


def _several(
    served: ServedImage, types: Sequence[str], settings: Settings, fresh: bool, progress: Callable[[Event], None]
) -> tuple[list[SmokeRun], list[PlatformError]]:
    """The runs in the order of `types`, and what the platform could not do."""
    from tasks.memory import Event, Moment
    from tasks.pipeline import Pipeline
    from tasks.side_by_side import side_by_side

    def work(kind: str) -> SmokeRun:
        return Pipeline(settings, fresh=fresh).smoke(served, served.image, served.parity, kind)

    runs: dict[str, SmokeRun] = {}
    errors: list[PlatformError] = []
    label = f"{served.image.format} × {len(types)} types"
    progress(Event(Moment.STARTED, "smoke", label))
    # One measures while the others wait, and no more emulate than there are CPUs to do it.
    for kind, outcome in side_by_side(types, work, at_once=max(2, os.cpu_count() or 1)):
        if isinstance(outcome, PlatformError):
            errors.append(outcome)
            progress(Event(Moment.STOPPED, "smoke", f"{served.image.format} × {kind}"))
            continue
        runs[kind] = outcome
        moment = Moment.REUSED if outcome.reused else Moment.FINISHED
        progress(Event(moment, "smoke", outcome.label, outcome.result.verdict, outcome.duration_s))
    return [runs[kind] for kind in types if kind in runs], errors


def _found(
    what: str, format: str | None, known: Sequence[Recorded], engine: Engine
) -> tuple[Package | None, ImageInfo]:
    """The image that is meant, in the engine, and the package that it is of, where this store has that.

    Raises:
        BadInput: neither the store nor the engine has such an image.
        PlatformError: the store has, and the engine no longer.
    """
    from tasks.lineage import find_image, find_tuned

    named: tuple[Package, Image | TunedImage] | None = find_tuned(known, what)
    if named is None:
        try:
            named = find_image([item.package for item in known], what, format)
        except BadInput as error:
            there = None if format else engine.find_image(what)
            if there is not None:
                return _package_of(there.id, known), there
            if format:
                raise
            raise BadInput(
                f"the engine has no image {what} (an image is given as NAME:TAG or by its digest), and {error}"
            ) from error
    package, image = named
    there = engine.find_image(image.digest)
    if there is None:
        raise PlatformError(
            f"the image {image.reference} ({image.digest}) is not in the engine: `slipway package` makes it again"
        )
    return package, there


def _package_of(digest: str, known: Sequence[Recorded]) -> Package | None:
    for item in known:
        if digest in {image.digest for image in item.package.images} | {image.digest for image in item.tuned}:
            return item.package
    return None


def _show(session: Session, served: ServedImage, runs: Sequence[SmokeRun], errors: Sequence[SlipwayError]) -> None:
    from rich.text import Text

    from tasks.console import smoke_lines
    from tasks.contracts import Verdict

    session.document(
        {
            "image": served.image.reference,
            "digest": served.image.digest,
            "model": served.name,
            "format": served.image.format,
            "budgets": {"p99_ms": served.serving.p99_ms, "cold_start_s": served.serving.cold_start_s},
            "verdict": Verdict.worst(run.result.verdict for run in runs) if runs and not errors else None,
            "types": [
                {
                    "instance_type": run.result.instance_type,
                    "verdict": run.result.verdict,
                    "reused": run.reused,
                    "made_at": None if run.made_at is None else run.made_at.isoformat(),
                    "duration_s": round(run.duration_s, 3),
                    "report": run.result.model_dump(mode="json"),
                }
                for run in runs
            ],
            "errors": [{"kind": type(error).__name__, "message": str(error)} for error in errors],
        }
    )
    if not session.as_json:
        session.result(*smoke_lines(served.image, served.serving, runs))
    for error in errors:
        session.err.print(Text(f"slipway: {error}"))
