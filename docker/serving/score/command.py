"""`python -m serving score INPUT OUTPUT`: the rows of a file through the packaged model.

Exit codes: 0 every row has its answer; 2 the file or the arguments do not fit, with row and column; 3 the model failed;
64 and above the package was refused (`serving.package.Refusal`); 130 after Ctrl-C, 143 after SIGTERM. Whenever it is
not 0, the output file is what it was before. What is written to a pipe cannot be taken back: there the code decides.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from serving.arguments import WRONG_ARGUMENTS, Arguments
from serving.package import Refused, Served, WrongAnswer, open_package
from serving.runners import RunnerError
from serving.score.files import Form, between, check_names, form_of, open_reader, writing
from serving.score.rows import Unscorable
from serving.score.scoring import Progress, batch_rows, score

UNSCORABLE, FAILED = WRONG_ARGUMENTS, 3


def main(arguments: list[str]) -> int:
    """Run the command; the process's exit code."""
    # As Ctrl-C does, SIGTERM goes through the clean-up; process 1 of a container would not even be ended by it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _parser().parse_args(arguments)
    try:
        source, target = form_of(options.input, options.input_form), form_of(options.output, options.output_form)
        check_names(options.input, options.output)
        served = open_package(options.package, options.threads)
        with contextlib.closing(served.runner):
            _score(served, options, source, target)
    except Unscorable as error:
        return _ended(UNSCORABLE, str(error))
    except (RunnerError, WrongAnswer) as error:
        return _ended(FAILED, str(error))
    except Refused as error:
        return _ended(int(error.refusal), f"the package is refused: {error}")
    except BrokenPipeError:
        sys.stdout = None  # or Python would flush it, and complain
        return _ended(128 + signal.SIGPIPE, "whoever read the output has stopped")
    except KeyboardInterrupt:
        return _ended(128 + signal.SIGINT, "stopped; no output was written")
    return 0


def _score(served: Served, options: argparse.Namespace, source: Form, target: Form) -> None:
    rows = batch_rows(served.contract, served.raw, options.batch_rows)
    with contextlib.closing(open_reader(options.input, source, served.raw)) as reader:
        progress = Progress(reader.total)
        with (
            writing(options.output, target, served.contract.signature) as writer,
            between(options.input, options.output),
        ):
            score(served, reader, writer, rows, progress)
    if not options.quiet:
        progress.done()


def _ended(code: int, message: str) -> int:
    print(f"score: {message}", file=sys.stderr)
    return code


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="IMAGE score", description="Scores the rows of a file.")
    parser.add_argument("input", help=".npz, .csv, or - for CSV on standard input")
    parser.add_argument("output", help=".npz, .csv, or - for CSV on standard output")
    parser.add_argument("--package", type=Path, default=Path("/package"), help="the package folder")
    parser.add_argument(
        "--batch-rows", type=_positive, default=None, help="rows at once; the contract's max_batch otherwise"
    )
    parser.add_argument("--threads", type=_positive, default=None, help="threads of one inference")
    parser.add_argument("--input-form", help="of a pipe or an unusual name: npz, csv, tensors")
    parser.add_argument("--output-form", help="of a pipe or an unusual name: npz, csv, tensors")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    return parser
