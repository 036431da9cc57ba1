"""Commands that take a package or its image somewhere: `score`, `bundle`, `tune`, `push`, `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TextIO, cast

import typer

from tasks.cli.arguments import seconds
from tasks.cli.session import AsJson, Debug, opened
from tasks.errors import BadInput


def score(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A serving image: tag or digest.")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Rows: .npz, .csv or .parquet; - is CSV on a pipe.")],
    target: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="Where answers go: .npz, .csv or .parquet; - is CSV on a pipe.")
    ],
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows that the model gets at once; else the package's max_batch.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Answer every row of a file with a packaged model, in constant memory; the output is whole or not there."""
    from dataclasses import asdict

    from tasks.scoring import score as scored

    if as_json and target == "-":
        raise BadInput("--json and the answers both want standard output: give OUTPUT a name, or leave --json out")
    with opened(as_json, debug) as (session, _):
        found = scored(image, source, target, batch_rows, session.err.file, cast("TextIO", session.out.file).buffer)
        session.document({**asdict(found), "output": target})
        said = f"{found.rows} rows by {found.model} {found.version}"
        if target == "-":
            session.err.print(said, soft_wrap=True)
        else:
            session.result(f"{target}: {said}")
    return 0


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

    with opened(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        recorded = list(packages(store))
        tuned = [image for item in recorded for image in item.tuned]
        known = [item.package for item in recorded]
        origin = find(what, format, known, store, connect, unknown=unknown, tuned=tuned)
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

    asked = Asked(image, seconds(budget), p99_ms, rows, cpus, memory_mb, write=not measure_only)
    with opened(as_json, debug) as (session, interruption):
        found = tuned(asked, lambda line: session.err.print(line, soft_wrap=True), interruption.check)
        session.document(found.document())
        session.result(*found.lines())
    return found.exit_code


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
    from tasks.lineage import find_image, find_tuned, packages
    from tasks.settings import Settings
    from tasks.store import open_store

    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, _):
        store = open_store(settings.store_uri)
        known = list(packages(store))
        made, image = find_tuned(known, what) or find_image([item.package for item in known], what, format)
        if repository is None and settings.registry is None:
            raise BadInput("where to? give REGISTRY/REPO, or set SLIPWAY_REGISTRY")
        pushed = push_image(image, repository or f"{settings.registry}/{made.name}", connect(), store)
        session.document({**pushed.model_dump(mode="json"), "reference": pushed.reference, "package": made.digest})
        session.result(f"{image.reference} is {pushed.reference}")
    return 0


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

    with opened(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        known = list(packages(store))
        images = [image for item in known for image in item.package.images]
        tuned = [image for item in known for image in item.tuned]
        info, image = pull_image(reference, [*images, *tuned], connect(), store)
        made = next(
            (item.package for item in known if image in item.package.images or image in item.tuned),
            None,
        )
        session.document({"reference": reference, "image": info.id, "package": None if made is None else made.digest})
        which = "which no package in the store has" if made is None else f"of {made.name}, package {made.digest}"
        session.result(f"{reference} is the image {info.id}, {which}")
    return 0
