"""The command that asks what can be named in `smoke.instance_types`: `instance-types`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.session import AsJson, Debug, opened
from tasks.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.smoke.hardware import InstanceType


def instance_types(
    word: Annotated[
        str | None, typer.Argument(metavar="[WORD]", help="Only those with this in name, provider, processor or GPU.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """List the instance types that smoke knows, the catalogue's and your own: what each has, and what you pay for it.

    The level is what every machine of the type executes, whichever of its processors it turns out to have.
    """
    from tasks.smoke import load_catalogue

    with opened(as_json, debug) as (session, _):
        known = load_catalogue()
        shown = [kind for kind in known.values() if word is None or word.lower() in _described(kind)]
        if not shown:
            raise BadInput(
                f"none of the {len(known)} instance types has {word!r} in its name, provider, processors or GPU"
            )
        session.document({"instance_types": [_document(kind) for kind in shown]})
        if not as_json:
            session.result(_table(shown))
    return 0


def _described(kind: InstanceType) -> str:
    gpu = kind.gpu.model if kind.gpu else ""
    return " ".join([kind.name, kind.provider, kind.architecture, *(cpu.name for cpu in kind.cpus), gpu]).lower()


def _document(kind: InstanceType) -> dict[str, Any]:
    return {
        **kind.model_dump(mode="json"),
        "architecture": kind.architecture,
        "level": kind.level,
        "price": None if kind.price is None else kind.price.model_dump(mode="json"),
    }


def _table(kinds: Sequence[InstanceType]) -> Table:
    from rich.table import Table

    from tasks.figures import NOTHING

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("type", "provider", "vCPUs", "GiB", "level", "GPU", "an hour"):
        table.add_column(column, no_wrap=True)
    table.add_column("processors", overflow="fold")
    for kind in kinds:
        table.add_row(
            kind.name,
            kind.provider,
            f"{kind.vcpus:g}",
            f"{kind.memory_bytes / 2**30:g}",
            kind.level,
            f"{kind.gpu.count} x {kind.gpu.model.removeprefix('NVIDIA ')}" if kind.gpu else NOTHING,
            f"{kind.price.per_hour:g} {kind.price.currency}" if kind.price else NOTHING,
            ", ".join(cpu.name for cpu in kind.cpus),
        )
    return table
