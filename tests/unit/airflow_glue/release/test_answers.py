"""What becomes of the question to a person, and of the event that a package leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.airflow_glue.release.approval import answered
from tasks.airflow_glue.release.assets import READY, Ready, offered
from tasks.airflow_glue.release.control import Asked
from tasks.airflow_glue.release.steps import NOBODY, left
from tasks.contracts import digest_of

_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def _event(option: str, **changes: Any) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {"reason": "not on a Friday"},
        "responded_at": _AT,
        "responded_by_user": {"id": "7", "name": "anna"},
        **changes,
    }


def test_an_approval_has_who_when_and_why() -> None:
    answer = answered(_event("Approve"))
    assert answer.is_approved
    assert (answer.by, answer.at, answer.reason) == ("anna", _AT, "not on a Friday")


def test_a_rejection_ends_the_release_with_who_and_why() -> None:
    answer = answered(_event("Reject"))
    assert not answer.is_approved
    finding = left(answer)
    assert finding.code == "RELEASE_REJECTED"
    assert finding.message == "anna rejected it: not on a Friday"


def test_nobodys_answer_is_no_approval() -> None:
    answer = answered({"error": "the time has passed", "error_type": "timeout"})
    assert not answer.is_approved
    assert answer.by == NOBODY
    assert left(answer).code == "RELEASE_NOT_APPROVED"


def test_a_release_that_was_approved_and_is_left_was_given_up() -> None:
    assert left(answered(_event("Approve"))).code == "RELEASE_ABANDONED"
    assert left(None).code == "RELEASE_ABANDONED"


def test_a_version_is_the_registered_models_and_a_digest_goes_by_itself() -> None:
    assert Asked(model="digits").name == "digits"
    assert Asked(model="digits", version="3").name == "digits@3"
    assert Asked(model="digits", version="sha256:ab12cd").name == "sha256:ab12cd"
    assert Asked(model="digits", version="ab12cd").name == "ab12cd"


@dataclass
class _Event:
    timestamp: datetime
    extra: dict[str, Any]


def test_of_several_packages_the_newest_comes_first() -> None:
    def event(model: str, minutes: int) -> _Event:
        ready = Ready(model=model, package=digest_of(model))
        return _Event(_AT + timedelta(minutes=minutes), ready.model_dump(mode="json"))

    found = offered({READY: [event("a", 1), event("b", 3), event("c", 2)]})
    assert [ready.model for ready in found] == ["b", "c", "a"]


def test_a_run_that_a_person_started_has_no_package_of_its_own() -> None:
    assert offered({}) == []
