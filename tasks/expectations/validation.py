"""Tables and rules → what held and what did not: Great Expectations asked, in memory, silently.

In: `Table`s. Out: `Checked`: an `Expectation` for every rule, a `Finding` for every broken one, the verdict, and what
`data_docs` renders. A rule whose result cannot be had is inconclusive, never a pass; so is everything where Great
Expectations cannot be run at all.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.contracts import Expectation, Finding, Owner, Verdict
from tasks.expectations.rules import SEVERITIES, Argument, Rule, Table

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

#: Rows that a message names.
_NAMED_ROWS = 3
#: Names come from users' files, and Great Expectations escapes them in some places of its pages and not in others; a
#: `$` begins a placeholder there. So nothing that means something to it or to HTML goes in.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "&": "＆", '"': "”", "$": "＄"})
#: The place of a rule among its table's, in an expectation's own notes; results come back in another order.
PLACE = "slipway.rule"


@dataclass(frozen=True, slots=True)
class Validation:
    """One table's suite and result, as Great Expectations has them."""

    table: Table
    suite: ExpectationSuite
    result: ExpectationSuiteValidationResult


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of all tables."""

    verdict: Verdict
    expectations: tuple[Expectation, ...]
    findings: tuple[Finding, ...]
    validations: tuple[Validation, ...] = ()


def check(tables: Sequence[Table], code: str) -> Checked:
    """Hold every table against its rules. `code` begins the codes of findings about the check itself, e.g. `DATA`."""
    try:
        validations = _validated([_harmless_table(table) for table in tables])
    except Exception as error:  # noqa: BLE001  whatever keeps it from answering: no answer is no pass
        return _unchecked(code, f"{type(error).__name__}: {error}".splitlines()[0])
    expectations: list[Expectation] = []
    findings: list[Finding] = []
    verdicts: list[Verdict] = []
    for validation in validations:
        judged = _judged(validation, code)
        expectations += [each for each, _ in judged]
        findings += [finding for _, finding in judged if finding is not None]
        verdicts.append(_severity(validation))
    verdict = Verdict.worst((*verdicts, *(finding.verdict for finding in findings)))
    return Checked(verdict, tuple(expectations), tuple(findings), validations)


def _validated(tables: Sequence[Table]) -> tuple[Validation, ...]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        # In memory alone: without this it makes a folder for a site that nobody asked for.
        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        quiet = {"globally": False, "metric_calculations": False}
        config = DataContextConfig(store_backend_defaults=stores, progress_bars=quiet, analytics_enabled=False)
        context = gx.get_context(mode="ephemeral", project_config=config)
        source = context.data_sources.add_pandas("slipway")
        validations = []
        for table in tables:
            suite = gx.ExpectationSuite(
                table.name, expectations=[_configured(*each) for each in enumerate(table.rules)]
            )
            context.suites.add(suite)
            batch = source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe("all")
            definition = gx.ValidationDefinition(name=table.name, data=batch, suite=suite)
            result = context.validation_definitions.add(definition).run(
                batch_parameters={"dataframe": table.frame},
                result_format={
                    "result_format": "SUMMARY",
                    "partial_unexpected_count": _NAMED_ROWS,
                    "unexpected_index_column_names": [table.key, *table.shown],
                },
            )
            for each in result.results:
                each.result = _plain(each.result)
            validations.append(Validation(table, suite, result))
    return tuple(validations)


def _harmless(text: str) -> str:
    return text.translate(_LOOKALIKES)


def _harmless_table(table: Table) -> Table:
    """The table with every name and text in it harmless."""

    def argument(value: Argument) -> Argument:
        if isinstance(value, str):
            return _harmless(value)
        if isinstance(value, Sequence):
            return [_harmless(item) if isinstance(item, str) else item for item in value]  # type: ignore[return-value]
        return value

    frame = table.frame.rename(columns=_harmless)
    for name in frame.columns:
        if frame[name].dtype.kind in "OU" or str(frame[name].dtype) == "str":
            frame[name] = frame[name].map(lambda cell: _harmless(cell) if isinstance(cell, str) else cell)
    rules = tuple(
        replace(rule, arguments={name: argument(value) for name, value in rule.arguments.items()})
        for rule in table.rules
    )
    return replace(table, frame=frame, rules=rules, shown=tuple(map(_harmless, table.shown)))


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: Great Expectations counts with the first and cannot render them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "dtype") and hasattr(value, "item") else value


def _configured(place: int, rule: Rule) -> ExpectationConfiguration:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(
        type=rule.expectation,
        kwargs=dict(rule.arguments),
        meta={PLACE: place},
        description=f"{_harmless(rule.claim)} ({rule.code}{'' if rule.broken is not Verdict.PASSED else ', a remark'})",
        severity=SEVERITIES[rule.broken],
    )


def _judged(validation: Validation, code: str) -> list[tuple[Expectation, Finding | None]]:
    """Every rule of a table with its result, in the rules' order."""
    results = {result.expectation_config.meta.get(PLACE): result for result in validation.result.results}
    return [_of(rule, results.get(place), validation.table, code) for place, rule in enumerate(validation.table.rules)]


def _of(rule: Rule, result: Any, table: Table, code: str) -> tuple[Expectation, Finding | None]:
    if result is None or (reason := _exception(result.exception_info)) is not None:
        said = "there is no result" if result is None else reason
        finding = _no_result(code, f"it could not be found out whether {rule.claim}: {said}")
        return _expectation(rule, Verdict.INCONCLUSIVE, finding.message), finding
    found = _found(result.result, table)
    if result.success:
        return _expectation(rule, Verdict.PASSED, f"{rule.claim}: {found or 'so it is'}"), None
    message = f"expected that {rule.claim}; found {found or 'otherwise'}"
    rows = [entry[table.key] for entry in result.result.get("partial_unexpected_index_list") or ()]
    evidence: dict[str, str | int | float | bool] = {"table": table.name, "expectation": rule.expectation}
    if rule.column is not None:
        evidence["column"] = rule.column
    if rows:
        evidence[table.one] = ", ".join(map(str, rows))
    finding = Finding(
        code=rule.code,
        owner=rule.owner,
        verdict=rule.broken,
        message=message,
        advice=rule.advice,
        evidence=evidence,
    )
    return _expectation(rule, rule.broken, message), finding


def _expectation(rule: Rule, verdict: Verdict, message: str) -> Expectation:
    return Expectation(name=rule.expectation, column=rule.column, verdict=verdict, message=message)


def _found(result: Mapping[str, Any], table: Table) -> str:
    """What a result says, as words."""
    if "unexpected_count" in result:
        count, of = int(result["unexpected_count"]), len(table.frame)
        if not count:
            return f"so it is in all {of} {table.many}"
        named = [_row(entry, table) for entry in result.get("partial_unexpected_index_list") or ()]
        more = ", …" if count > len(named) else ""
        return f"{count} of {of} {table.many} otherwise" + (f": {', '.join(named)}{more}" if named else "")
    observed = result.get("observed_value")
    if isinstance(observed, list | tuple | set):
        return ", ".join(map(str, observed)) or "none"
    if isinstance(observed, float):
        return f"{observed:.6g}"
    return "" if observed is None else str(observed)


def _row(entry: Mapping[str, Any], table: Table) -> str:
    """`row 3 (pixels: missing 2)`: which, and what the column that was looked at says there."""
    beside = {
        name: value for name, value in entry.items() if name != table.key and not (isinstance(value, str) and not value)
    }
    said = ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in beside.items()
    )
    return f"{table.one} {entry[table.key]}" + (f" ({said})" if said else "")


def _exception(info: Mapping[str, Any]) -> str | None:
    """Why a rule could not be checked; None where it was."""
    entries = [info] if "raised_exception" in info else list(info.values())
    for entry in entries:
        if entry.get("raised_exception"):
            return str(entry.get("exception_message") or "no reason was given").strip().splitlines()[0]
    return None


def _severity(validation: Validation) -> Verdict:
    """Great Expectations' own answer for the whole table."""
    results = validation.result.results
    if len(results) != len(validation.table.rules) or any(_exception(each.exception_info) for each in results):
        return Verdict.INCONCLUSIVE  # what the others say is in their findings
    severity = validation.result.get_max_severity_failure()
    if severity is None:
        return Verdict.PASSED if validation.result.success else Verdict.INCONCLUSIVE
    return next(verdict for verdict, name in SEVERITIES.items() if name == severity.value)


def _no_result(code: str, message: str) -> Finding:
    return Finding(
        code=f"{code}_NOT_CHECKED",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=message,
        advice="run the same again with --fresh; if it stays so, report it with this message",
    )


def _unchecked(code: str, reason: str) -> Checked:
    finding = _no_result(code, f"Great Expectations could not be run: {reason}")
    return Checked(Verdict.INCONCLUSIVE, (), (finding,))
