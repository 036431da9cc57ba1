"""The sentences of shadow's findings: what was expected, what was found, at which request, what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.release.shadow.requests import Logged
from tasks.spec import MetricSpec

Evidence = dict[str, str | int | float | bool]


# --- before anything is sent --------------------------------------------------------------------------------------


def redacted(found: Logged) -> Finding:
    return Finding(
        code="SHADOW_LOG_REDACTED",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"{found.redacted} recorded requests cannot be replayed: some of their inputs were left out or hashed",
        advice="nothing, where the evaluation data stands for production; else let `serving.prediction_log` keep "
        "inputs whose replay matters",
        evidence={"redacted": found.redacted, "whole": len(found.requests)},
    )


def outdated(found: Logged) -> Finding:
    return Finding(
        code="SHADOW_LOG_OUTDATED",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"{found.others} recorded requests have other inputs than the version in production takes, and are not "
        "replayed",
        advice="nothing, where they are from an earlier version; remove them from the prediction log",
        evidence={"others": found.others, "whole": len(found.requests)},
    )


def unreadable_log(folder: str, reason: str) -> Finding:
    return Finding(
        code="SHADOW_LOG_UNREADABLE",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the prediction log {folder} was to be replayed and cannot be read: {reason}",
        advice="name the folder that the servers write to, repair or remove the file, or release without it",
        evidence={"log": folder},
    )


def no_golden(reason: str) -> Finding:
    return Finding(
        code="SHADOW_NO_GOLDEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the new package's own golden samples cannot be asked: {reason}",
        advice="package the model again, so that the store has them",
    )


def no_evaluation(reason: str) -> Finding:
    return Finding(
        code="SHADOW_NO_EVALUATION",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"the new package's evaluation rows cannot be asked: {reason}",
        advice="package the model again, so that the store has them: a retrained model is held to its metrics on them",
    )


# --- whether they were answered -----------------------------------------------------------------------------------


def refused(count: int, asked: int, first: Evidence, input_name: str | None) -> Finding:
    named = f" for input {input_name!r}" if input_name else ""
    return Finding(
        code="SHADOW_REQUEST_REFUSED",
        owner=Owner.MODEL,
        message=f"{count} of {asked} requests that clients of today may send are refused by the new version{named}; "
        f"the first: {first['request']}: {first['said']}",
        advice="let the new version take what clients send: compare its inputs, ranges and preprocessing with the old "
        "one's; or move the clients first",
        evidence={**first, "refused": count, **({"input": input_name} if input_name else {})},
    )


def not_answered(count: int, asked: int, first: Evidence) -> Finding:
    return Finding(
        code="SHADOW_ERRORS",
        owner=Owner.PLATFORM,
        message=f"{count} of {asked} requests got no answer from the new version; the first: {first['request']}: "
        f"{first['said']}",
        advice="ask the new version the same request by hand and look at its log: it was started with the package's "
        "own image, so what fails is not what smoke tried",
        evidence={**first, "errors": count},
    )


def too_few(compared: int, asked: int, why: str) -> Finding:
    return Finding(
        code="SHADOW_TOO_FEW_REQUESTS",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"{asked} requests were to be compared, and {compared} could be: {why}",
        advice="release again once the old version has room to answer; a version that answers slowly needs longer than "
        "shadow waits",
        evidence={"compared": compared, "asked": asked},
    )


def no_requests(why: str) -> Finding:
    return Finding(
        code="SHADOW_NO_REQUESTS",
        owner=Owner.DATA,
        verdict=Verdict.INCONCLUSIVE,
        message=f"there is nothing to replay: {why}",
        advice="package the model again, so that its evaluation data and golden samples are in the store, or name a "
        "prediction log",
    )


def slow(count: int, asked: int, limit_ms: float, worst_ms: float) -> Finding:
    return Finding(
        code="SHADOW_SLOW",
        owner=Owner.PLATFORM,
        message=f"{count} of {asked} requests took the new version over {limit_ms:g} ms (up to {worst_ms:.0f} ms): "
        "with 95 % confidence more than 1 % are as slow, which the version in production does not show",
        advice="compare batching and threads of both packages, and what else runs on this machine; `slipway tune` "
        "finds a setting that keeps the objective",
        evidence={"slow": count, "asked": asked, "p99_ms": limit_ms, "worst_ms": round(worst_ms, 3)},
    )


def both_slow(count: int, before: int, asked: int, limit_ms: float) -> Finding:
    return Finding(
        code="SHADOW_BOTH_SLOW",
        owner=Owner.PLATFORM,
        verdict=Verdict.PASSED,
        message=f"more than 1 % of requests took longer than {limit_ms:g} ms at both versions: {count} of {asked} at "
        f"the new one, {before} at the old",
        advice="the machine is busy, or the objective is too tight for it; the canary is held against the old version",
        evidence={"slow": count, "slow_old": before, "asked": asked, "p99_ms": limit_ms},
    )


# --- what they were answered --------------------------------------------------------------------------------------


def not_a_number(rows: int, of: int, first: Evidence) -> Finding:
    return Finding(
        code="SHADOW_NAN",
        owner=Owner.MODEL,
        message=f"the new version answers {rows} of {of} rows with NaN; the first: {first['request']}, output "
        f"{first['output']!r}",
        advice="look for a division by zero, an overflow in a narrower dtype, or a value that training never saw",
        evidence={**first, "rows": rows},
    )


def differs(rows: int, of: int, first: Evidence) -> Finding:
    return Finding(
        code="SHADOW_ANSWER_DIFFERS",
        owner=Owner.MODEL,
        message=f"both packages are of one model, and {rows} of {of} rows are answered otherwise, with status 200; the "
        f"first: {first['request']}: {first['complaint']}",
        advice="compare preprocessing constants, runtime versions and formats of both packages: the same trained bytes "
        "must answer the same. A model that is meant to answer otherwise is another model",
        evidence={**first, "rows": rows},
    )


def on_edge(rows: int, of: int, share: float) -> Finding:
    return Finding(
        code="SHADOW_ROWS_ON_EDGE",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message=f"{rows} of {of} rows are answered otherwise: no more than the {100 * share:.2g} % that parity found "
        "so near a threshold of the model that rounding decides",
        advice="nothing, unless such rows matter",
        evidence={"rows": rows, "of": of, "share": share},
    )


def golden_differs(samples: int, of: int, first: Evidence) -> Finding:
    return Finding(
        code="SHADOW_GOLDEN_DIFFERS",
        owner=Owner.PLATFORM,
        message=f"{samples} of {of} golden samples of the new package are not answered as its own source model does; "
        f"the first: {first['request']}: {first['complaint']}",
        advice="what runs is not the package: compare the running image's digest with the package's, and the machine "
        "with those that smoke proved",
        evidence={**first, "samples": samples},
    )


def no_tolerance(outputs: list[str]) -> Finding:
    return Finding(
        code="SHADOW_NO_TOLERANCE",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"parity has no tolerance for {', '.join(map(repr, outputs))}, by which answers are compared",
        advice="package the model again with this version of Slipway",
        evidence={"outputs": ", ".join(outputs)},
    )


def disagrees(share: float, least: float, rows: int, first: Evidence) -> Finding:
    return Finding(
        code="SHADOW_DISAGREES",
        owner=Owner.MODEL,
        message=f"{100 * share:.4g} % of {rows} rows have the same answer as before, and `release.shadow.agreement` "
        f"asks for {100 * least:g} %; the first that differs: {first.get('request')}: {first.get('complaint')}",
        advice="look at the rows that changed sides; lower the agreement if so many are meant to",
        evidence={**first, "agreement": share, "least": least, "rows": rows},
    )


# --- metrics ------------------------------------------------------------------------------------------------------


def nothing_to_judge_by(reason: str) -> Finding:
    return Finding(
        code="SHADOW_NOTHING_TO_JUDGE_BY",
        owner=Owner.MODEL,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the new version is another model than the one in production, and nothing says how good it must be: "
        f"{reason}",
        advice="declare `release.shadow.agreement` (the least share of equal answers), or package the model with "
        "labelled evaluation data and `evaluation.metrics`",
    )


def metric_dropped(wanted: MetricSpec, found: MetricComparison, before: str) -> Finding:
    return Finding(
        code="SHADOW_METRIC_DROP",
        owner=Owner.MODEL,
        message=f"{found.name} goes from {_figure(found.source)} ({before}) to {_figure(found.export)} over "
        f"{found.rows} rows: a drop of {_figure(found.drop)}, where {found.max_drop:g} is allowed",
        advice="do not release this version; where the drop is meant, raise the metric's `max_drop`",
        evidence=_of_metric(wanted, found),
    )


def metric_undecided(wanted: MetricSpec, found: MetricComparison) -> Finding:
    if found.upper is None:
        bound, advice = "which are too few to say how far off that may be", "give more evaluation rows"
    else:
        bound = (
            f"and with {100 * found.confidence:.4g} % confidence by no more than {found.upper:.3g}, where "
            f"{found.max_drop:g} is allowed: it may be too much worse, and these rows cannot tell"
        )
        advice = (
            f"give at least {found.rows_needed:,} evaluation rows (if they change as these do)"
            if found.rows_needed is not None
            else "no number of rows would show it at this drop: release a better model, or raise `max_drop`"
        )
    return Finding(
        code="SHADOW_METRIC_UNDECIDED",
        owner=Owner.DATA,
        verdict=Verdict.INCONCLUSIVE,
        message=f"{found.name} drops by {_figure(found.drop)} over {found.rows} rows, {bound}",
        advice=advice,
        evidence=_of_metric(wanted, found),
    )


def metric_missing(wanted: MetricSpec, reason: str) -> Finding:
    return Finding(
        code="SHADOW_METRIC_MISSING",
        owner=Owner.DATA,
        verdict=Verdict.INCONCLUSIVE,
        message=f"{wanted.name} on output {wanted.output!r} has no value for both versions: {reason}",
        advice="a metric that was never computed is not a pass: see to it that both versions answer every labelled "
        "row, and that the labels fit this output",
        evidence={"metric": wanted.name, "output": wanted.output, "label": wanted.label},
    )


def _of_metric(wanted: MetricSpec, found: MetricComparison) -> Evidence:
    figures: Mapping[str, float | None] = {
        "old": found.source,
        "new": found.export,
        "drop": found.drop,
        "upper": found.upper,
        "rows_needed": found.rows_needed,
    }
    return {
        "metric": wanted.name,
        "output": wanted.output,
        "max_drop": found.max_drop,
        "rows": found.rows,
        **{name: value for name, value in figures.items() if value is not None},
    }


def _figure(value: float | None) -> str:
    return "no value" if value is None else f"{value:.6g}"
