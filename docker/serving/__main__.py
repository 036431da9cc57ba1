"""`python -m serving [serve|contract|selftest]`: what an image's container runs.

    serve      answer requests (the default)
    contract   print contract.json (`--plain`: what it says, in words) and end
    selftest   verify the package and replay every golden sample, a line for each check (`--json`: one document); exit
               code 0, or that of the refusal

The exit code of a refusal says what did not hold (`serving.package.Refusal`); its sentence is the last line of
standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from serving.contract import CONTRACT_FILE
from serving.package import Refused, read_contract


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    # Process 1 of a container ignores signals that it does not handle: a stop while loading would wait for SIGKILL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _parser().parse_args(arguments)
    try:
        if options.command == "contract":
            _print_contract(options.package, plain=options.plain)
        elif options.command == "selftest":
            return _selftest(options.package, options.threads, as_json=options.json)
        else:
            from serving.server import serve

            serve(options.package, options.host, options.port, options.threads, options.workers)
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
    from serving.cpus import available_cpus
    from serving.selftest import selftest

    report = selftest(folder, threads or available_cpus())
    sys.stdout.buffer.write(report.json() if as_json else report.text().encode())
    sys.stdout.buffer.flush()  # before the log's line, which is the last word
    if report.refusal is None:
        return 0
    raise Refused(report.refusal, report.problem)


def _parser() -> argparse.ArgumentParser:
    def from_environment(name: str, default: int | None) -> int | None:
        value = os.environ.get(name)
        return default if not value else _positive(value)

    parser = argparse.ArgumentParser(prog="serving", description="Serves one packaged model.")
    parser.add_argument("command", nargs="?", default="serve", choices=("serve", "contract", "selftest"))
    parser.add_argument("--plain", action="store_true", help="contract: in words, not as JSON")
    parser.add_argument("--json", action="store_true", help="selftest: one JSON document on standard output")
    parser.add_argument("--package", type=Path, default=Path("/package"), help="the package folder")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  a container's own
    parser.add_argument("--port", type=_positive, default=from_environment("SERVING_PORT", 8000))
    parser.add_argument(
        "--threads", type=_positive, default=from_environment("SERVING_THREADS", None), help="threads of one inference"
    )
    parser.add_argument(
        "--workers", type=_positive, default=from_environment("SERVING_WORKERS", None), help="inferences at once"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
