"""One command's way of talking, and the options that every command has.

Results go to standard output, progress and errors to standard error; with `--json`, standard output holds exactly one
JSON document.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.terminal import Interruption, own_streams, width_of

if TYPE_CHECKING:
    from rich.console import Console

JSON = "--json"
DEBUG = "--debug"

AsJson = Annotated[bool, typer.Option(JSON, help="One JSON document on standard output.")]
Debug = Annotated[bool, typer.Option(DEBUG, help="Tracebacks, and what the frameworks print, on standard error.")]


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


@contextlib.contextmanager
def opened(as_json: bool, debug: bool) -> Iterator[tuple[Session, Interruption]]:
    """A session on this process's own streams; what frameworks print goes nowhere unless `debug`, and Ctrl-C or SIGTERM
    end the work in order."""
    from rich.console import Console

    interruption = Interruption()
    with interruption.handled(), own_streams(debug=debug) as streams:
        consoles = [
            Console(file=stream, width=width_of(stream), markup=False, highlight=False, emoji=False)
            for stream in (streams.out, streams.err)
        ]
        yield Session(as_json, *consoles), interruption
