"""From the arguments to an exit code: every error becomes a sentence; a traceback reaches only who asked for it.

0 passed, 1 a gate said failed or inconclusive, 2 bad input, 3 the platform failed, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import typer

from tasks.cli.app import app
from tasks.cli.arguments import refuse_empty
from tasks.cli.session import DEBUG, JSON
from tasks.errors import SlipwayError, SpecError
from tasks.supervision import supervised
from tasks.terminal import Stopped

#: The base of all errors that Typer makes of wrong arguments; it keeps the class itself to itself.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


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
        refuse_empty(arguments)
        return int(app(arguments, standalone_mode=False) or 0)
    except (BrokenPipeError, SystemExit) as end:  # click makes an exit of a broken pipe
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has had enough
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt, Stopped) as error:  # noqa: BLE001  here a traceback becomes a sentence
        if DEBUG in arguments:
            traceback.print_exc()
        return _say_error(arguments, *explained(error), _problems(error))


def _say_error(arguments: list[str], kind: str, message: str, exit_code: int, problems: list[dict[str, Any]]) -> int:
    if JSON in arguments:
        said = {"kind": kind, "message": message, "exit_code": exit_code, "problems": problems}
        print(json.dumps({"error": said}, indent=2, ensure_ascii=False))
    else:
        print(f"slipway: {message}", file=sys.stderr)
    return exit_code


def explained(error: BaseException) -> tuple[str, str, int]:
    """What an error is called, what to say about it, and the exit code."""
    if isinstance(error, SlipwayError):
        return type(error).__name__, str(error), error.exit_code
    if isinstance(error, Stopped):
        return "Stopped", "stopped; nothing was left half-done", error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Stopped", "stopped", 128 + signal.SIGINT
    if isinstance(error, _UsageError):
        said = getattr(error, "format_message", error.__str__)()
        return "UsageError", f"{said.rstrip().rstrip('.')}. Try `slipway --help`.", 2
    what = f"Slipway itself failed ({type(error).__name__}: {' '.join(str(error).split())})"  # one line, as all others
    return "InternalError", f"{what}: run it again with {DEBUG}, and report what it says", 3


def _problems(error: BaseException) -> list[dict[str, Any]]:
    if not isinstance(error, SpecError):
        return []
    return [{"line": item.line, "key": item.key, "message": item.message} for item in error.problems]
