"""`python -m tasks.cli`."""

from __future__ import annotations

from tasks.cli import main

main()
