"""What can go wrong, for the person who must act.

    SlipwayError
    ├── GateBlocked            1  a gate said failed or inconclusive, and something needed it to pass
    │   └── ApprovalNeeded        the spec asks for a person's approval of a release, and nobody gave it
    ├── BadInput               2  what was handed over cannot be used
    │   ├── ReleaseUnderway       another release of the model is not over
    │   ├── SpecError             model.yaml: every problem at once, each with line and key
    │   ├── SourceError           the artifact is missing, changed, truncated or unreadable
    │   │   └── UnsafeSource      the artifact would run code when opened
    │   └── EvaluationError       the evaluation data does not fit the signature
    └── PlatformError          3  the ground that the work stands on gave way
        ├── EngineUnavailable     no Docker engine answers
        ├── BuildFailed           the engine could not build an image
        ├── RegistryFailed        the image registry does not answer, or does not let this user in
        ├── TrackingUnavailable   MLflow does not answer
        ├── StoreUnavailable      the store cannot be read or written
        └── CorruptObject         bytes in the store no longer match their digest

The number is the process's exit code. A gate's verdict is data (`tasks.contracts.Verdict`), not an exception.
Messages say what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class SlipwayError(Exception):
    """Base of all errors that Slipway raises on purpose."""

    exit_code = 3


class GateBlocked(SlipwayError):
    """A gate said failed or inconclusive, and what was asked for needs it to pass."""

    exit_code = 1


class ApprovalNeeded(GateBlocked):
    """The spec asks for a person's approval of a release, and nobody gave it."""


class BadInput(SlipwayError):
    """What the user handed over (spec, file, argument) cannot be used as it is."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec. `line` counts from 1; `key` is dotted (`inputs.0.shape`)."""

    line: int | None
    key: str
    message: str


class SpecError(BadInput):
    """A model.yaml that does not hold; carries every problem found."""

    def __init__(self, path: str, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(self._sentence(problem) for problem in problems))

    def _sentence(self, problem: Problem) -> str:
        where = self.path if problem.line is None else f"{self.path}:{problem.line}"
        return f"{where}: {problem.key}: {problem.message}" if problem.key else f"{where}: {problem.message}"


class SourceError(BadInput):
    """The artifact is missing, changed while it was read, truncated, or not what its framework writes."""


class UnsafeSource(SourceError):
    """Opening the artifact would run code from it. The message says how to convert it."""


class EvaluationError(BadInput):
    """The evaluation data is missing columns, has the wrong shapes or dtypes, or cannot be read."""


class ReleaseUnderway(BadInput):
    """Another release of the model is not over; the message says which, since when, and by whom."""


class PlatformError(SlipwayError):
    """Nothing is wrong with the model: something that the work stands on failed."""


class EngineUnavailable(PlatformError):
    """No Docker engine answers."""


class BuildFailed(PlatformError):
    """The engine could not build an image; the message carries the engine's own last lines."""


class RegistryFailed(PlatformError):
    """The image registry does not answer, or does not let this user read or write."""


class TrackingUnavailable(PlatformError):
    """The MLflow tracking server does not answer, or refused."""


class StoreUnavailable(PlatformError):
    """The store cannot be read or written."""


class CorruptObject(PlatformError):
    """Bytes in the store no longer match the digest they are named by."""
