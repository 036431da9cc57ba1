"""`slipway …`: the pipeline on a laptop, and questions to what it left behind.

app.py         the program: its commands in order
stages.py      package, verify
smoke.py       smoke
release.py     release, rollback, status; watching.py: what is seen meanwhile
evidence.py    reproduce, lineage, verify-attestation
images.py      score, bundle, tune, push, pull
catalogue.py   instance-types
placement.py   matrix, manifests
arguments.py   what was typed → what is meant
documents.py   what programs are told of a package
session.py     how a command talks: to people, or with --json to programs
entry.py       arguments → exit code, errors → sentences

Heavy imports are inside the commands: `slipway --help` answers at once.
"""

from __future__ import annotations

from tasks.cli.app import app
from tasks.cli.entry import main, run

__all__ = ["app", "main", "run"]
