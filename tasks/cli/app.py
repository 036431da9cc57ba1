"""The program `slipway` and its commands, in the order in which `--help` shows them."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.cli import catalogue, evidence, images, judge, placement, release, smoke, stages

_COMMANDS = (
    stages.package,
    stages.verify,
    smoke.smoke,
    images.score,
    judge.judge,
    release.release,
    release.rollback,
    release.status,
    evidence.reproduce,
    images.bundle,
    images.tune,
    evidence.lineage,
    images.push,
    images.pull,
    placement.matrix,
    placement.manifests,
    evidence.verify_attestation,
    catalogue.instance_types,
)

app = typer.Typer(
    name="slipway",
    help="Takes a trained model to production: exported, proven equal, packed into an image, tried where it will run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in _COMMANDS:
    app.command(_command.__name__.replace("_", "-"))(_command)


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
