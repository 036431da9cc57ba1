"""Commands that ask what is known of packages: `reproduce`, `lineage`, `verify-attestation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.cli.arguments import text_of
from tasks.cli.session import AsJson, Debug, opened
from tasks.errors import BadInput


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

    with opened(as_json, debug) as (session, _):
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
    with opened(as_json, debug) as (session, _):
        found = trace(digest, settings, open_store(settings.store_uri))
        session.document(found.model_dump(mode="json"))
        if not as_json:
            from tasks.console import chain

            session.result(*chain(found))
    return 0


def verify_attestation(
    package: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE|IMAGE",
            help="A package's digest (or its first digits), or a model's name; one of its images, or a tuned image, "
            "by reference or digest.",
        ),
    ],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Public key, PEM; else this installation's.")] = None,
    envelope: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The attestation, DSSE; else the one in the store.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Hold a package or a tuned image against its signed evidence, as a release does: whose it is, what it follows
    from, and that every gate passed."""
    from tasks.attestation import attestation_of, public_key, verify_stored
    from tasks.attestation import verify as verify_package
    from tasks.contracts import Verdict
    from tasks.lineage import find_evidenced, packages
    from tasks.settings import Settings
    from tasks.store import open_store

    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, _):
        store = open_store(settings.store_uri)
        made, tuned = find_evidenced(list(packages(store)), package)
        subject = made.digest if tuned is None else tuned.digest
        signed = attestation_of(subject, store) if envelope is None else text_of(envelope)
        held_against = public_key(settings, key)
        report = (
            verify_package(made, signed, held_against)
            if tuned is None
            else verify_stored(tuned, made, store, held_against, signed)
        )
        session.document(report.model_dump(mode="json"))
        if not as_json:
            from tasks.console import finding_lines

            what = made.name if tuned is None else f"{tuned.reference}, tuned from {tuned.base},"
            session.result(f"{what} {subject}: attestation {report.verdict}, key {report.key[:12]}")
            session.result(*finding_lines(report.findings))
    return 0 if report.verdict is Verdict.PASSED else 1
