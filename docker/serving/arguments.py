"""The command line of an image: what does not fit it is one sentence on standard error, and exit code 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

#: As of every program that argparse reads the arguments of, and of `slipway`.
WRONG_ARGUMENTS = 2


class Arguments(argparse.ArgumentParser):
    """Says what is wrong without repeating all that could have been said."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_ARGUMENTS, f"{self.prog}: {message} (--help says what there is)\n")
