"""A package that tests itself where it is: one line per check, and what was refused, if anything was.

In: a package folder. Out: a `SelftestReport`, as text or JSON. Every check that can be made alone is made, so that one
run says everything that does not hold; the model is opened only when all of them passed, because opening files that are
not the contract's, or on a processor that lacks their instructions, proves nothing. All golden samples are asked even
where the first is answered wrongly: how far an output is off says more than that it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from serving.contract import Needs, ServingContract
from serving.golden import Margin, as_json, differences, margins, merge
from serving.machine import Machine, mib
from serving.package import (
    Refusal,
    Refused,
    Served,
    answer,
    load_verified,
    read_contract,
    unlike,
    verify_files,
    verify_instructions,
    verify_memory,
    verify_platform,
    verify_versions,
)
from serving.scheduling import scheduling

_Found = TypeVar("_Found")


class Outcome(StrEnum):
    """What became of a check; one that was not made says nothing."""

    PASSED = "passed"
    REFUSED = "refused"
    NOT_MADE = "not made"


_MARKS = {Outcome.PASSED: "✓", Outcome.REFUSED: "✗", Outcome.NOT_MADE: "–"}


@dataclass(frozen=True, slots=True)
class Check:
    """One check, and a sentence: what was found."""

    name: str
    outcome: Outcome
    said: str


@dataclass(slots=True)
class SelftestReport:
    """All checks in order. `refusal` is the first thing that does not hold, `answers` counts right golden rows, and
    `margins` are the worst of each output over all golden samples, right and wrong."""

    package: str = ""
    checks: list[Check] = field(default_factory=list)
    refusal: Refusal | None = None
    problem: str = ""
    answers: int = 0
    margins: dict[str, Margin] = field(default_factory=dict)
    seconds: float = 0.0

    def text(self) -> str:
        """For people, with a line break at the end."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{_MARKS[check.outcome]} {check.name:<{width}}  {check.said}" for check in self.checks]
        verdict = "passed" if self.refusal is None else f"refused ({self.refusal.name.lower()})"
        return "\n".join([*lines, f"{self.package or 'selftest'} {verdict}, {self.seconds:.2f} s"]) + "\n"

    def json(self) -> bytes:
        """For programs, with a line break at the end."""
        document = {
            "package": self.package,
            "passed": self.refusal is None,
            "refusal": None if self.refusal is None else self.refusal.name.lower(),
            "exit_code": int(self.refusal or 0),
            "checks": [{"check": check.name, "outcome": check.outcome, "message": check.said} for check in self.checks],
            "answers": self.answers,
            "outputs": as_json(self.margins),
            "seconds": round(self.seconds, 3),
        }
        return msgspec.json.encode(document) + b"\n"

    def hold(self, name: str, check: Callable[[], _Found], said: Callable[[_Found], str]) -> _Found | None:
        """Make a check; `said` is what to say of what it found. `None` where it was refused."""
        try:
            found = check()
        except Refused as error:
            self.checks.append(Check(name, Outcome.REFUSED, str(error)))
            if self.refusal is None:
                self.refusal, self.problem = error.refusal, str(error)
            return None
        self.checks.append(Check(name, Outcome.PASSED, said(found)))
        return found

    def leave(self, name: str, why: str) -> None:
        """Write down that a check was not made."""
        self.checks.append(Check(name, Outcome.NOT_MADE, why))


def selftest(folder: Path, threads: int | None) -> SelftestReport:
    """Make every check, and let the model answer every golden sample: alone, and in batches as large as they may be."""
    started = time.monotonic()
    report = SelftestReport()
    contract = report.hold("contract", lambda: read_contract(folder), _of_contract)
    if contract is not None:
        report.package = f"{contract.name} {contract.version}"
        _hold_still(report, folder, contract)
        _hold_running(report, folder, contract, threads)
    report.seconds = time.monotonic() - started
    return report


def _of_contract(contract: ServingContract) -> str:
    return f"version {contract.contract_version}, model {contract.name} {contract.version} as {contract.format}"


def _hold_still(report: SelftestReport, folder: Path, contract: ServingContract) -> None:
    """What can be known without opening the model."""
    needs, machine = contract.needs, Machine.this()
    size_bytes = sum(file.size_bytes for file in contract.files)
    for name, check, said in (
        ("platform", lambda: verify_platform(needs, machine), f"{machine.architecture}, Python {machine.python}"),
        ("instruction set", lambda: verify_instructions(needs, machine), _of_instructions(needs)),
        ("memory", lambda: verify_memory(needs, machine), _of_memory(needs, machine)),
        ("versions", lambda: verify_versions(contract.runtime_versions), _of_versions(contract)),
        ("files", lambda: verify_files(folder, contract), f"{len(contract.files)} files, {size_bytes:,} bytes"),
    ):
        report.hold(name, check, partial(_sentence, said))


def _sentence(text: str, _: None) -> str:
    return text


def _of_instructions(needs: Needs) -> str:
    names = ", ".join(needs.instructions)
    return f"the processor has {names}" if names else "the model's files need no extension of their own"


def _of_memory(needs: Needs, machine: Machine) -> str:
    limit = "an unknown amount" if machine.memory_bytes is None else mib(machine.memory_bytes)
    return f"the weights take at least {mib(needs.memory_bytes)}, the container may use {limit}"


def _of_versions(contract: ServingContract) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(contract.runtime_versions.items()))


def _hold_running(report: SelftestReport, folder: Path, contract: ServingContract, threads: int | None) -> None:
    """The model itself: opened, and asked every golden sample in batches of one and of as many as it may take."""
    batches = {f"golden answers by {size}": size for size in (1, contract.max_batch)}
    if report.refusal is not None:
        for name in ("model", *batches):
            report.leave(name, "the model is not opened where something above does not hold")
        return
    threads = threads or scheduling(contract).threads
    before = time.monotonic()
    served = report.hold(
        "model",
        lambda: load_verified(folder, contract, threads),
        lambda _: f"{contract.model} opened in {time.monotonic() - before:.2f} s, threads {threads}",
    )
    for name, size in batches.items():
        if served is None:
            report.leave(name, "the model could not be opened")
            continue
        asked = report.hold(name, partial(_replay_all, report, served, size), _of_replay)
        report.answers += asked.rows if asked else 0
    if served is not None:
        served.runner.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    rows: int = 0
    requests: int = 0
    of_allowed: float = 0.0


def _replay_all(report: SelftestReport, served: Served, size: int) -> _Asked:
    """Replay all golden samples in batches of at most `size` rows; their margins go into the report first."""
    rows: list[int] = []
    wrong: list[str] = []
    found: dict[str, Margin] = {}
    for batch in served.golden.batches(served.raw, size):
        given = answer(served, batch)
        wrong += differences(given, batch.outputs, served.contract.tolerances)
        found = merge(found, margins(given, batch.outputs, served.contract.tolerances))
        rows.append(served.rows(batch.inputs))
    report.margins = merge(report.margins, found)
    if wrong:
        more = f", and {len(wrong) - 1} more such" if len(wrong) > 1 else ""
        raise Refused(Refusal.ANSWERS, unlike(wrong[:1]) + more)
    return _Asked(sum(rows), len(rows), max((margin.of_allowed for margin in found.values()), default=0.0))


def _of_replay(asked: _Asked) -> str:
    requests = "one request" if asked.requests == 1 else f"{asked.requests} requests"
    return (
        f"{asked.rows} in {requests} are the source model's, within the contract's tolerances, "
        f"of which they take at most {asked.of_allowed:.0%}"
    )
