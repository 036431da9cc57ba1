"""A release for people: the page that it leaves, the lines that `slipway status` shows, what MLflow keeps of it.

    looks       counters as read → what happened between two looks       pure
    view        verdict sentence, steps, trail                            pure
    plots       places on the page                                        pure
    curves      shares, evidence, errors, slow requests, classes          pure
    page        all of it → one HTML file (release.html.j2; the style is the parity page's)
    terminal    a release → Rich renderables
    evidence    a release → tags, figures and files of its MLflow run     pure

docs/read-a-release-report.md is the page for users.
"""

from __future__ import annotations

from tasks.release.report.evidence import evidence_of
from tasks.release.report.page import render
from tasks.release.report.terminal import lines

__all__ = ["evidence_of", "lines", "render"]
