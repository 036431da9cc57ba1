"""A release → what its MLflow run holds. Pure: nothing here talks to MLflow.

In: the release, its page, its trace. Out: `tasks.lineage.evidence.Evidence`, in the form that packages leave theirs:
digests are tags, choices parameters, figures metrics, reports files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tasks.contracts import digest_of
from tasks.lineage.evidence import Evidence, measured
from tasks.release.contracts import Arm, Release, Sample
from tasks.release.report.looks import merged, spans
from tasks.release.report.view import verdict

#: The page's name in the run.
PAGE = "release.html"


def evidence_of(
    release: Release, page: str, trace: Sequence[Sample] = (), recorded: Mapping[str, str] | None = None
) -> Evidence:
    """The run of one release. `recorded` are files as they stand, by name: the journal, and the trace from which
    `slipway judge` comes to the same verdict."""
    texts = {PAGE: page, "release.json": release.model_dump_json(indent=2) + "\n", **(recorded or {})}
    return Evidence(
        stage="release",
        label=release.id,
        digest=digest_of(texts),
        verdict=verdict(release),
        tags=_tags(release),
        params={
            "steps": ", ".join(f"{step:g}" for step in release.plan.steps),
            "alpha": f"{release.plan.alpha:g}",
            "min_requests": str(release.plan.min_requests),
            "split_by": release.split_by,
            "started_by": release.started_by,
        },
        metrics=measured(_metrics(release, trace)),
        texts=texts,
    )


def _tags(release: Release) -> dict[str, str]:
    tags = {
        "slipway.verdict": verdict(release).value,
        "slipway.release": release.id,
        "slipway.phase": release.phase.value,
        "slipway.package": release.candidate.package,
        f"slipway.image.{release.candidate.format}": release.candidate.image,
    }
    if release.stable is not None:
        tags["slipway.previous"] = release.stable.package
    return tags


def _metrics(release: Release, trace: Sequence[Sample]) -> dict[str, float]:
    found: dict[str, float] = {
        "duration_s": (release.changed_at - release.started_at).total_seconds(),
        "step": release.step,
    }
    if release.shadow is not None:
        found |= {"shadow.requests": release.shadow.requests, "shadow.errors": release.shadow.errors}
        if release.shadow.agreement is not None:
            found["shadow.agreement"] = release.shadow.agreement
        for name, (old, new) in release.shadow.metrics.items():
            found |= {f"shadow.{name}.old": old, f"shadow.{name}.new": new}
    if release.judgement is not None:
        found |= {f"evidence.{guard.name}": guard.evidence for guard in release.judgement.guards}
    if (total := merged(spans(trace))) is not None:
        for arm in Arm:
            tally = total.of(arm)
            found |= {f"{arm}.requests": tally.requests, f"{arm}.errors": tally.errors, f"{arm}.slow": tally.slow}
    return {name: value for name, value in found.items() if math.isfinite(value)}
