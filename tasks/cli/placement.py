"""Commands about where a package may run: `matrix`, `manifests`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.cli.session import AsJson, Debug, opened
from tasks.errors import BadInput


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

    if html is not None and not html.absolute().parent.is_dir():
        raise BadInput(f"{html}: there is no folder {html.absolute().parent} to write the page into; make it first")
    with opened(as_json, debug) as (session, _):
        store = open_store(Settings.from_environment().store_uri)
        cells = matrix_of(find_package([item.package for item in packages(store)], package), known_prices())
        advice = recommend(cells)
        if html is not None:
            from tasks.overview import render_matrix

            html.write_text(render_matrix(cells, advice))
        session.document({"matrix": cells.model_dump(mode="json"), "recommendation": advice.model_dump(mode="json")})
        if not as_json:
            from tasks.console import matrix_table, unproven_lines

            session.result(matrix_table(cells), "", *unproven_lines(cells), advice.words)
    return 0 if advice.format is not None else 1


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
    with opened(as_json, debug) as (session, _):
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
