"""Node with what examples/score-in-node needs, installed where setup installs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def score(bundle: Path) -> subprocess.CompletedProcess[str]:
    """Score a bundle's golden samples in JavaScript."""
    installed = subprocess.run([ROOT / "scripts" / "node.sh"], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    script = Path(installed.stdout.splitlines()[-1]) / "score.mjs"
    return subprocess.run(["node", script, bundle], capture_output=True, text=True, check=False, timeout=120)
