"""`python -m serving [serve|contract|selftest|score]`: what an image's container runs.

    serve      answer requests (the default)
    contract   print contract.json and end
    selftest   verify the package and replay every golden sample; exit code 0, or that of the refusal
    score      answer the rows of a file: `score INPUT OUTPUT` (`serving.score.command`)

The exit code of a refusal says what did not hold (`serving.package.Refusal`); its sentence is the last line of
standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from serving.package import Refused, open_package, read_contract, replay


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    # Process 1 of a container ignores signals that it does not handle: a stop while loading would wait for SIGKILL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["score"]:
        from serving.score.command import main as score

        return score(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        if options.command == "contract":
            read_contract(options.package)
            sys.stdout.buffer.write((options.package / "contract.json").read_bytes())
        elif options.command == "selftest":
            _selftest(options.package, options.threads)
        else:
            from serving.server import serve

            serve(options.package, options.host, options.port, options.threads, options.workers)
    except Refused as error:
        from serving.log import log

        log("refused", refusal=error.refusal.name.lower(), error=str(error))
        return int(error.refusal)
    return 0


def _selftest(folder: Path, threads: int | None) -> None:
    from serving.cpus import available_cpus
    from serving.log import log

    started = time.monotonic()
    served = open_package(folder, threads or available_cpus())
    rows = 0
    for size in (1, served.contract.max_batch):
        for batch in served.golden.batches(served.raw, size):
            replay(served, batch)
            rows += len(next(iter(batch.inputs.values()))) if served.raw.batch else 1
    log("selftest passed", answers=rows, seconds=round(time.monotonic() - started, 3))


def _parser() -> argparse.ArgumentParser:
    def from_environment(name: str, default: int | None) -> int | None:
        value = os.environ.get(name)
        return default if not value else _positive(value)

    parser = argparse.ArgumentParser(prog="serving", description="Serves one packaged model.")
    parser.add_argument("command", nargs="?", default="serve", choices=("serve", "contract", "selftest", "score"))
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
