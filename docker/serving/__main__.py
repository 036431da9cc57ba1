"""`python -m serving [serve|contract|selftest|score]`: what an image's container runs.

    serve      answer requests (the default)
    contract   print contract.json (`--plain`: what it says, in words) and end
    selftest   verify the package and replay every golden sample, a line for each check (`--json`: one document); exit
               code 0, or that of the refusal
    score      answer the rows of a file: `score INPUT OUTPUT` (`serving.score.command`)

The exit code of a refusal says what did not hold (`serving.package.Refusal`); its sentence is the last line of
standard error.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

from serving.contract import CONTRACT_FILE, Batching
from serving.package import Refused, read_contract
from serving.stopping import Stopping

#: Kubernetes kills 30 s after SIGTERM, unless told otherwise.
_GRACE_S = 25


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["score"]:
        from serving.score.command import main as score

        return score(arguments[1:])
    options = _parser().parse_args(arguments)
    stopping = Stopping()
    try:
        if options.command == "contract":
            _print_contract(options.package, plain=options.plain)
        elif options.command == "selftest":
            return _selftest(options.package, options.threads, as_json=options.json)
        else:
            from serving.server import Address, serve

            overrides = Batching(**{item.name: getattr(options, item.name) for item in fields(Batching)})
            address = Address(options.host, options.port, options.grpc_port or None)
            serve(options.package, address, overrides, options.grace_s, stopping)
    except Refused as error:
        from serving.log import log

        log("refused", refusal=error.refusal.name.lower(), error=str(error))
        return int(error.refusal)
    return 0


def _print_contract(folder: Path, *, plain: bool) -> None:
    contract, content = read_contract(folder), (folder / CONTRACT_FILE).read_bytes()
    if plain:
        from serving.description import describe

        content = describe(contract).encode()
    sys.stdout.buffer.write(content)


def _selftest(folder: Path, threads: int | None, *, as_json: bool) -> int:
    from serving.selftest import selftest

    report = selftest(folder, threads)
    sys.stdout.buffer.write(report.json() if as_json else report.text().encode())
    sys.stdout.buffer.flush()  # before the log's line, which is the last word
    if report.refusal is None:
        return 0
    raise Refused(report.refusal, report.problem)


def _parser() -> argparse.ArgumentParser:
    def number(option: str, kind: Callable[[str], float], what: str, default: int | None = None) -> None:
        name = f"SERVING_{option.removeprefix('--').replace('-', '_').upper()}"
        parser.add_argument(option, type=kind, default=os.environ.get(name) or default, help=f"{what} ({name})")

    parser = argparse.ArgumentParser(prog="serving", description="Serves one packaged model.")
    parser.add_argument("command", nargs="?", default="serve", choices=("serve", "contract", "selftest", "score"))
    parser.add_argument("--plain", action="store_true", help="contract: in words, not as JSON")
    parser.add_argument("--json", action="store_true", help="selftest: one JSON document on standard output")
    parser.add_argument("--package", type=Path, default=Path("/package"), help="the package folder")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  a container's own
    number("--port", _positive, "port to listen on", 8000)
    number("--grpc-port", partial(_at_least, 0), "port of gRPC; 0 for none", 8001)
    number("--threads", _positive, "threads of one inference")
    number("--workers", _positive, "batches at once")
    number("--batch-rows", _positive, "most rows of a batch")
    number("--batch-window-ms", _not_negative, "how long a batch waits for more while workers are busy")
    number("--queue-rows", _positive, "most rows that wait")
    number("--grace-s", _not_negative, "seconds that requests in flight have to finish after SIGTERM", _GRACE_S)
    return parser


def _positive(text: str) -> int:
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
