"""`slipway …`: the pipeline on a laptop, and questions to what it left behind.

Exit codes: 0 passed, 1 a gate said failed or inconclusive, 2 bad input, 3 the platform failed, 130 after Ctrl-C, 143
after SIGTERM. Results go to standard output, progress and errors to standard error; with `--json`, standard output
holds exactly one JSON document, also when something fails.

Heavy imports are inside the commands: `slipway --help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.errors import BadInput, SlipwayError, SpecError
from tasks.supervision import supervised
from tasks.terminal import Interruption, Stopped, own_streams, width_of

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.contracts import LineageRecord, Package
    from tasks.pipeline import Runs

#: The base of all errors that Typer makes of wrong arguments; it keeps the class itself to itself.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_JSON = "--json"
_DEBUG = "--debug"

app = typer.Typer(
    name="slipway",
    help="Takes a trained model to production: exported, proven equal, packed into an image, tried where it will run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option(_JSON, help="One JSON document on standard output.")]
Debug = Annotated[bool, typer.Option(_DEBUG, help="Tracebacks, and what the frameworks print, on standard error.")]


@dataclass(frozen=True)
class Session:
    """One command's way of talking: `result` to people or `document` to programs, whichever was asked for."""

    as_json: bool
    out: Console
    err: Console

    def result(self, *renderables: Any) -> None:
        """Print for people."""
        from rich.table import Table

        for item in () if self.as_json else renderables:
            self.out.print(item, soft_wrap=not isinstance(item, Table))  # so that digests can be copied whole

    def document(self, value: Any) -> None:
        """Print for programs: one JSON document."""
        if self.as_json:
            self.out.file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            self.out.file.flush()


@app.command()
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

    asked = narrowed(load_spec(_existing(spec)), _split(formats), _split(instance_types))
    with _session(as_json, debug) as (session, interruption), Progress(session.err, interruption.check) as progress:
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


@app.command()
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

    asked = load_spec(_existing(spec))
    if report is not None and not report.absolute().parent.is_dir():
        raise BadInput(
            f"{report}: there is no folder {report.absolute().parent} to write the report into; make it first"
        )
    with _session(as_json, debug) as (session, interruption), Progress(session.err, interruption.check) as progress:
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


@app.command()
def score(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A serving image: tag or digest.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Rows: .npz, .csv or .parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where answers go: .npz, .csv or .parquet.")],
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows that the model gets at once; else the package's max_batch.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Answer every row of a file with a packaged model, in constant memory; the output is whole or not there."""
    from dataclasses import asdict

    from tasks.scoring import score as scored

    with _session(as_json, debug) as (session, _):
        found = scored(image, source, target, batch_rows, session.err.file)
        session.document({**asdict(found), "output": str(target)})
        session.result(f"{target}: {found.rows} rows by {found.model} {found.version}")
    return 0


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show the newest package of each model: its verdict, figures, image and place in MLflow."""
    from tasks.lineage import packages, unknown_model
    from tasks.settings import Settings
    from tasks.store import open_store

    with _session(as_json, debug) as (session, _):
        newest: dict[str, Any] = {}
        for item in packages(open_store(Settings.from_environment().store_uri)):
            newest.setdefault(item.package.name, item)
        if model is not None and model not in newest:
            raise BadInput(unknown_model(model, list(newest)))
        shown = [newest[name] for name in sorted(newest) if model in {None, name}]
        session.document({"packages": [_package_document(item.package, item.record) for item in shown]})
        if not shown:
            session.result("Nothing is packaged yet: `slipway package SPEC` does it.")
        elif not as_json:
            from tasks.console import finding_lines, standings

            session.result(*standings(shown, session.out.width))
            if model is not None:
                session.result(*finding_lines(shown[0].package.findings))
    return 0


@app.command()
def reproduce(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="A package's digest (or its first digits), or a model's name.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to write it; a folder that is not there.")],
    format: Annotated[str | None, typer.Option(metavar="F", help="Which format, where several failed.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Fetch the folder that reproduces a failed comparison: inputs, both answers, the export and a script.

    It needs the format's runtime and NumPy, nothing of Slipway. A model's name stands for its newest package.
    """
    from tasks.lineage import find_package, packages
    from tasks.settings import Settings
    from tasks.store import fetch_tree, open_store

    with _session(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        made = find_package([item.package for item in packages(store)], package)
        trees = {each.format: each.reproduction for each in made.parity if each.reproduction is not None}
        if not trees or (format is not None and format not in trees):
            raise BadInput(
                f"{made.name}: nothing to reproduce{'' if format is None else f' of {format}'}; "
                f"formats whose failure can be reproduced: {', '.join(trees) or 'none'}"
            )
        if format is None and len(trees) > 1:
            raise BadInput(f"{made.name}: several formats failed: choose one with --format: {', '.join(trees)}")
        chosen = format or next(iter(trees))
        if to.exists():
            raise BadInput(f"{to} is already there: give a folder that is not")
        fetch_tree(store, trees[chosen], to)
        session.document({"package": made.digest, "format": chosen, "folder": str(to)})
        session.result(f"{to}: run `python {to / 'reproduce.py'}`; {to / 'README.md'} says what should be seen")
    return 0


@app.command()
def bundle(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DIGEST|IMAGE",
            help="A model's name (its newest package), the digest of a package or an image (or its first digits), "
            "or an image in the engine.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, or a name that ends in .tar.")],
    format: Annotated[str | None, typer.Option(metavar="F", help="Which format; else the one that serves.")] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also an image of which this store does not know whether it passed.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Write a package without its server: model, contract, golden samples, and a page that says how to use them.

    Only what passed its gates is bundled. Nothing that is there is overwritten.
    """
    from tasks.bundle import find, write
    from tasks.figures import size
    from tasks.image import connect
    from tasks.lineage import packages
    from tasks.settings import Settings
    from tasks.store import open_store

    with _session(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        known = [item.package for item in packages(store)]
        origin = find(what, format, known, store, connect, unknown=unknown)
        written = write(origin, out)
        contract = written.contract
        session.document(
            {
                "path": str(written.path),
                "name": contract.name,
                "version": contract.version,
                "format": contract.format,
                "package": origin.package,
                "contract": written.contract_digest,
                "files": written.files,
                "size_bytes": written.size_bytes,
            }
        )
        session.result(
            f"{written.path}: {contract.name} {contract.version} as {contract.format}, {written.files} files, "
            f"{size(written.size_bytes)}; README.txt in it says how to use it"
        )
    return 0


@app.command()
def lineage(
    digest: Annotated[
        str,
        typer.Argument(
            metavar="DIGEST",
            help="Digest of an image, package, export, artifact or data file (or its first digits), "
            "an image reference, or the id of an MLflow run.",
        ),
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Walk from a digest back to the training run, and from a training run to its packages."""
    from tasks.lineage import trace
    from tasks.settings import Settings
    from tasks.store import open_store

    settings = Settings.from_environment()
    with _session(as_json, debug) as (session, _):
        found = trace(digest, settings, open_store(settings.store_uri))
        session.document(found.model_dump(mode="json"))
        if not as_json:
            from tasks.console import chain

            session.result(*chain(found))
    return 0


@app.command()
def push(
    what: Annotated[
        str, typer.Argument(metavar="IMAGE|PACKAGE", help="An image, or a package whose serving image is meant.")
    ],
    repository: Annotated[
        str | None,
        typer.Argument(metavar="[REGISTRY/REPO]", help="Where to; else the model's name in SLIPWAY_REGISTRY."),
    ] = None,
    format: Annotated[str | None, typer.Option(metavar="F", help="Of a package, the image in this format.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Push an image to a registry; says the digest to pull and run it by."""
    from tasks.image import connect
    from tasks.image import push as push_image
    from tasks.lineage import find_image, packages
    from tasks.settings import Settings
    from tasks.store import open_store

    settings = Settings.from_environment()
    with _session(as_json, debug) as (session, _):
        store = open_store(settings.store_uri)
        made, image = find_image([item.package for item in packages(store)], what, format)
        if repository is None and settings.registry is None:
            raise BadInput("where to? give REGISTRY/REPO, or set SLIPWAY_REGISTRY")
        pushed = push_image(image, repository or f"{settings.registry}/{made.name}", connect(), store)
        session.document({**pushed.model_dump(mode="json"), "reference": pushed.reference, "package": made.digest})
        session.result(f"{image.reference} is {pushed.reference}")
    return 0


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="REGISTRY/REPO@sha256:…", help="An image by its digest.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Pull an image by its digest, and say which package it is."""
    from tasks.image import connect
    from tasks.image import pull as pull_image
    from tasks.lineage import packages
    from tasks.settings import Settings
    from tasks.store import open_store

    with _session(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        known = {image.digest: item.package for item in packages(store) for image in item.package.images}
        images = [image for made in known.values() for image in made.images]
        info, image = pull_image(reference, images, connect(), store)
        made = None if image is None else known[image.digest]
        session.document({"reference": reference, "image": info.id, "package": None if made is None else made.digest})
        which = "which no package in the store has" if made is None else f"of {made.name}, package {made.digest}"
        session.result(f"{reference} is the image {info.id}, {which}")
    return 0


@app.command()
def matrix(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="A package's digest (or its first digits), or a model's name.")
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the page for people, HTML.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show each format on each instance type as it was proven, and which of them to take."""
    from tasks.lineage import find_package, packages
    from tasks.placement import known_prices, matrix_of, recommend
    from tasks.settings import Settings
    from tasks.store import open_store

    with _session(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        cells = matrix_of(find_package([item.package for item in packages(store)], package), known_prices())
        advice = recommend(cells)
        if html is not None:
            from tasks.overview import render_matrix

            html.write_text(render_matrix(cells, advice))
        session.document({"matrix": cells.model_dump(mode="json"), "recommendation": advice.model_dump(mode="json")})
        if not as_json:
            from tasks.console import matrix_table

            session.result(matrix_table(cells), "", advice.words)
    return 0 if advice.format is not None else 1


@app.command()
def manifests(
    package: Annotated[
        str, typer.Argument(metavar="IMAGE|PACKAGE", help="An image, or a package: its digest or its model's name.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write them; a folder that is not there.")],
    format: Annotated[str | None, typer.Option(metavar="F", help="Of a package; else the recommended one.")] = None,
    repository: Annotated[
        str | None, typer.Option(metavar="REGISTRY/REPO", help="Of the places that it was pushed to; else the newest.")
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=1, metavar="N", help="Replicas at least.")] = 2,
    max_replicas: Annotated[int, typer.Option(min=1, metavar="N", help="Replicas at most.")] = 10,
    require_features: Annotated[
        bool, typer.Option("--require-features", help="Only nodes that node-feature-discovery labelled.")
    ] = False,
    compose_only: Annotated[
        bool, typer.Option("--compose-only", help="For one machine alone; the image need not be in a registry.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Write Kubernetes manifests and a compose file that run an image only where it was proven.

    All of them are held against the schemas first, without a network; nothing is half written.
    """
    from tasks.attestation import attestation_of
    from tasks.deployment import Asked, Scale, chosen, in_registry, write_manifests
    from tasks.image.registry import pushed_images
    from tasks.lineage import packages
    from tasks.placement import known_prices
    from tasks.settings import Settings
    from tasks.smoke import load_catalogue
    from tasks.store import open_store

    if max_replicas < min_replicas:
        raise BadInput(f"--max-replicas {max_replicas} is less than --min-replicas {min_replicas}")
    with _session(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        prices = known_prices()
        made, image = chosen([item.package for item in packages(store)], package, format, prices)
        reference = None if compose_only else in_registry(image, list(pushed_images(store)), repository)
        asked = Asked(out, reference, Scale(min_replicas, max_replicas), require_features)
        written = write_manifests(made, image, asked, load_catalogue(), prices, attestation_of(made.digest, store))
        work = written.workload
        session.document(
            {
                "path": str(written.path),
                "files": written.files,
                "package": made.digest,
                "image": work.image,
                "format": work.format,
                "instance_types": work.instance_types,
                "recommendation": written.recommendation.model_dump(mode="json"),
            }
        )
        session.result(
            f"{written.path}: {', '.join(written.files)}",
            f"{work.name} as {work.format} on {', '.join(work.instance_types)}",
        )
    return 0


@app.command("verify-attestation")
def verify_attestation(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="A package's digest (or its first digits), or a model's name.")
    ],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Public key, PEM; else this installation's.")] = None,
    envelope: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The attestation, DSSE; else the one in the store.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Hold a package against its signed evidence, as a release does: whose it is, and that every gate passed."""
    from tasks.attestation import attestation_of, public_key
    from tasks.attestation import verify as verify_package
    from tasks.contracts import Verdict
    from tasks.lineage import find_package, packages
    from tasks.settings import Settings
    from tasks.store import open_store

    settings = Settings.from_environment()
    with _session(as_json, debug) as (session, _):
        store = open_store(settings.store_uri)
        made = find_package([item.package for item in packages(store)], package)
        if envelope is not None and not envelope.is_file():
            raise BadInput(f"{envelope}: there is no such file")
        signed = attestation_of(made.digest, store) if envelope is None else envelope.read_text(errors="replace")
        report = verify_package(made, signed, public_key(settings, key))
        session.document(report.model_dump(mode="json"))
        if not as_json:
            from tasks.console import finding_lines

            session.result(f"{made.name} {made.digest}: attestation {report.verdict}, key {report.key[:12]}")
            session.result(*finding_lines(report.findings))
    return 0 if report.verdict is Verdict.PASSED else 1


@app.command()
def tune(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A serving image that `package` made: NAME:TAG.")],
    budget: Annotated[str, typer.Option(metavar="T", help="How long it may take: 90s, 2m, 1h.")] = "2m",
    p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", min=0.01, help="The objective; else the contract's.")
    ] = None,
    rows: Annotated[int | None, typer.Option(metavar="N", min=1, help="Rows of each request; else the fewest.")] = None,
    cpus: Annotated[float | None, typer.Option(metavar="N", min=0.1, help="CPUs of the container; else all.")] = None,
    memory_mb: Annotated[int | None, typer.Option(metavar="MB", min=64, help="Memory of the container.")] = None,
    measure_only: Annotated[bool, typer.Option("--measure-only", help="Write no image.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Find the batch size, window, threads and workers that bear the highest rate within the 99th percentile.

    The load is an open loop; the choice goes into an image of its own beside the one that was measured.
    """
    from tasks.tune.command import Asked, tuned

    asked = Asked(image, _seconds(budget), p99_ms, rows, cpus, memory_mb, write=not measure_only)
    with _session(as_json, debug) as (session, interruption):
        found = tuned(asked, lambda line: session.err.print(line, soft_wrap=True), interruption.check)
        session.document(found.document())
        session.result(*found.lines())
    return found.exit_code


@app.callback(invoke_without_command=True)
def _slipway(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"slipway {installed('slipway')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# --- ends ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """The entry point of the program `slipway`."""
    arguments = sys.argv[1:]
    sys.exit(
        supervised(
            lambda: run(arguments), lambda sentence, code: _say_error(arguments, "EndedEarly", sentence, code, [])
        )
    )


def run(arguments: list[str]) -> int:
    """Run one command; its exit code. No traceback reaches the user unless asked for."""
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except (BrokenPipeError, SystemExit) as end:  # click makes an exit of a broken pipe
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has had enough
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt, Stopped) as error:  # noqa: BLE001  here a traceback becomes a sentence
        if _DEBUG in arguments:
            traceback.print_exc()
        return _say_error(arguments, *_explained(error), _problems(error))


def _say_error(arguments: list[str], kind: str, message: str, exit_code: int, problems: list[dict[str, Any]]) -> int:
    if _JSON in arguments:
        said = {"kind": kind, "message": message, "exit_code": exit_code, "problems": problems}
        print(json.dumps({"error": said}, indent=2, ensure_ascii=False))
    else:
        print(f"slipway: {message}", file=sys.stderr)
    return exit_code


def _explained(error: BaseException) -> tuple[str, str, int]:
    """What an error is called, what to say about it, and the exit code."""
    if isinstance(error, SlipwayError):
        return type(error).__name__, str(error), error.exit_code
    if isinstance(error, Stopped):
        return "Stopped", "stopped; nothing was left half-done", error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Stopped", "stopped", 128 + signal.SIGINT
    if isinstance(error, _UsageError):
        said = getattr(error, "format_message", error.__str__)()
        return "UsageError", f"{said} Try `slipway --help`.", 2
    what = f"Slipway itself failed ({type(error).__name__}: {error})"
    return "InternalError", f"{what}: run it again with {_DEBUG}, and report what it says", 3


def _problems(error: BaseException) -> list[dict[str, Any]]:
    if not isinstance(error, SpecError):
        return []
    return [{"line": item.line, "key": item.key, "message": item.message} for item in error.problems]


@contextlib.contextmanager
def _session(as_json: bool, debug: bool) -> Iterator[tuple[Session, Interruption]]:
    from rich.console import Console

    interruption = Interruption()
    with interruption.handled(), own_streams(debug=debug) as streams:
        consoles = [
            Console(file=stream, width=width_of(stream), markup=False, highlight=False, emoji=False)
            for stream in (streams.out, streams.err)
        ]
        yield Session(as_json, *consoles), interruption


# --- arguments and results ----------------------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    """The spec's path; a folder stands for the model.yaml in it."""
    spec = path / "model.yaml" if path.is_dir() else path
    if not spec.is_file():
        what = f"there is no {spec.name} in this folder" if path.is_dir() else "there is no such file"
        raise BadInput(f"{path}: {what}: give the path of a model.yaml")
    return spec


def _split(values: list[str] | None) -> list[str]:
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or not int(text[:-1]):
        raise BadInput(f"--budget {text}: expected a whole number with a unit s, m or h, such as 2m")
    return float(text[:-1]) * unit


def _show_package(
    session: Session, made: Package, recorded: LineageRecord | None, runs: Runs, errors: list[SlipwayError]
) -> None:
    from rich.text import Text

    from tasks.console import finding_lines, package_lines, package_table, reproduction_lines
    from tasks.memory import verdict_of

    session.document(
        {
            **_package_document(made, recorded),
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


def _package_document(made: Package, recorded: LineageRecord | None) -> dict[str, Any]:
    return {
        "name": made.name,
        "package": made.digest,
        "verdict": made.verdict,
        "serving_format": made.serving_format,
        "manifest": made.model_dump(mode="json"),
        "mlflow": None if recorded is None else recorded.model_dump(mode="json"),
    }


if __name__ == "__main__":
    main()
