"""`python -m serving [serve|contract|selftest|score]`: what an image's container runs.

    serve      answer requests (the default)
    contract   print contract.json (`--plain`: what it says, in words) and end
    selftest   verify the package and replay every golden sample, a line for each check (`--json`: one document); exit
               code 0, or that of the refusal
    score      answer the rows of a file: `score INPUT OUTPUT` (`serving.score.command`)

The exit code of a refusal says what did not hold (`serving.package.Refusal`); its sentence is the last line of
standard error. Arguments that do not fit end it with 2 and a sentence.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path

from serving.arguments import Arguments
from serving.contract import CONTRACT_FILE
from serving.package import Refused, read_contract
from serving.settings import ALL, GRACE_S, Given, read_batching, read_ports, read_threads
from serving.stopping import Stopping

_COMMANDS = ("serve", "contract", "selftest", "score")

#: Kubernetes kills 30 s after SIGTERM, unless told otherwise.
_GRACE_S = 25


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["score"]:
        from serving.score.command import main as score

        return score(arguments[1:])
    options = _parsed(arguments)
    stopping = Stopping()
    try:
        if options.command == "contract":
            _print_contract(options.package, plain=options.plain)
        elif options.command == "selftest":
            return _selftest(options.package, read_threads(options.package, vars(options)), as_json=options.json)
        else:
            _serve(options.package, options.host, vars(options), stopping)
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


def _serve(folder: Path, host: str, given: Given, stopping: Stopping) -> None:
    port, grpc_port = read_ports(given)
    grace_s = GRACE_S.read(given, os.environ)
    overrides = read_batching(folder, given)
    from serving.server import Address, serve

    serve(folder, Address(host, port, grpc_port), overrides, _GRACE_S if grace_s is None else grace_s, stopping)


def _parsed(arguments: list[str]) -> Namespace:
    parser = Arguments(prog="IMAGE", description="Serves one packaged model.")
    parser.add_argument("command", nargs="?", default="serve", metavar="|".join(_COMMANDS), help="serve unless said")
    parser.add_argument("--plain", action="store_true", help="contract: in words, not as JSON")
    parser.add_argument("--json", action="store_true", help="selftest: one JSON document on standard output")
    parser.add_argument("--package", type=Path, default=Path("/package"), help="the package folder")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  a container's own
    for setting in ALL:
        parser.add_argument(f"--{setting.option}", metavar="N", help=f"{setting.what} ({setting.variable})")
    options = parser.parse_args(arguments)
    if options.command not in _COMMANDS:
        parser.error(f"there is no command {options.command!r}: expected {', '.join(_COMMANDS)}")
    if options.command == "score":
        parser.error("score comes before its options: score INPUT OUTPUT")
    return options


if __name__ == "__main__":
    sys.exit(main())
