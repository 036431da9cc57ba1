"""Releases to start a test from, and a second controller: it plays what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tasks.airflow_glue.release.control import Asked
from tasks.contracts import Finding, Verdict, digest_of
from tasks.release.contracts import Deployed, GuardState, Judgement, Phase, Plan, Release, ShadowReport

NOW = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)


def deployed(version: str = "2", **changes: Any) -> Deployed:
    values: dict[str, Any] = {
        "package": digest_of(f"package {version}"),
        "image": digest_of(f"image {version}"),
        "reference": f"slipway/digits:{version}",
        "format": "onnx",
        "version": version,
    }
    return Deployed(**{**values, **changes})


def release(phase: Phase = Phase.CANARY, **changes: Any) -> Release:
    """Version 2 of digits on its way to replace version 1."""
    values: dict[str, Any] = {
        "id": "digits-20261124T160000000Z-00000000",
        "model": "digits",
        "candidate": deployed("2"),
        "stable": deployed("1"),
        "plan": Plan(steps=(1, 50, 100), bake_s=60, extend_s=600, min_requests=500, alpha=0.01, p99_ms=50),
        "phase": phase,
        "started_at": NOW,
        "started_by": "a test",
        "changed_at": NOW,
    }
    return Release(**{**values, **changes})


def shadowed(**changes: Any) -> ShadowReport:
    values: dict[str, Any] = {
        "verdict": Verdict.PASSED,
        "requests": 1000,
        "distinct": 719,
        "rows": 1000,
        "kind": "retrained",
        "agreement": 0.9876,
        "metrics": {"accuracy": (0.97, 0.98)},
        "source": "the evaluation data",
    }
    return ShadowReport(**{**values, **changes})


def judgement(**changes: Any) -> Judgement:
    from tasks.release.contracts import Decision

    values: dict[str, Any] = {
        "at": NOW.timestamp(),
        "step": 0,
        "decision": Decision.WAIT,
        "guards": (GuardState(name="errors", evidence=0.5, threshold=2.3, stable=0.001, canary=0.002),),
        "canary_requests": 120,
        "stable_requests": 12000,
        "baked_s": 30.0,
        "seconds_left": 45.0,
        "reason": "waits for 380 more requests",
    }
    return Judgement(**{**values, **changes})


class PlayedReleases:
    """A controller that gives one release (or failure) after the other for each look, and notes what was asked."""

    def __init__(self, *looks: Release | Exception, during: Callable[[], None] = lambda: None) -> None:
        self.looks, self.during = list(looks), during
        self.calls: list[str] = []

    def open(self, asked: Asked) -> Release:
        self.calls.append(f"open {asked.name}")
        return release(Phase.PREPARING)

    def look(self, release_id: str) -> Release:
        self.calls.append("look")
        self.during()
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.calls.append("looked")
        if isinstance(found, Exception):
            raise found
        return found

    def approve(self, release_id: str, by: str) -> Release:
        self.calls.append(f"approve by {by}")
        return release()

    def refuse(self, release_id: str, by: str, why: Finding) -> Release:
        self.calls.append(f"refuse by {by}: {why.code}")
        return release(Phase.REFUSED, findings=(why,))

    def resume(self, release_id: str, *, decided: bool) -> Release:
        self.calls.append("resume, decided" if decided else "resume")
        return release()

    def leave(self, release_id: str) -> Release:
        self.calls.append("leave")
        return release(Phase.HELD)

    def back(self, model: str, reason: str) -> Release:
        self.calls.append(f"back {model}")
        return release(Phase.ROLLED_BACK)

    def finish(self, release_id: str) -> Release:
        self.calls.append("finish")
        return release(Phase.PROMOTED)
