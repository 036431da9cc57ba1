"""How often the metric gate passes what it should not, and how many rows it takes to pass what it should.

    make bench-metrics          python -m benchmarks.noninferiority [--trials 1000] [--only accuracy]

Models are simulated whose export is worse by exactly `max_drop`: the gate should pass no more than 1 - confidence of
them, for every metric, number of rows and kind of harm. Then `max_drop` is made larger than the harm, to see when the
gate begins to pass. The gate is asked as the pipeline asks it (`tasks.parity.quality.compare_metrics`). Prints tables,
and draws the power curves into `$SLIPWAY_HOME/reports/noninferiority.svg`.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import Verdict
from tasks.parity.quality import compare_metrics
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, MetricSpec

Array = NDArray[np.float64]

SIZES = (100, 300, 1000)
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CONFIDENCE = 0.95
#: The true drop is measured on so many rows: its own error is a thirtieth of that of 1,000 rows.
POPULATION = 1_000_000
#: Items of a query that is ranked.
_ITEMS = 10


@dataclass(frozen=True)
class Sample:
    labels: NDArray[Any]
    source: Array
    export: Array


def two_classes(rng: np.random.Generator, rows: int) -> tuple[NDArray[Any], Array]:
    """One logit a row, and labels that it is calibrated for: 89 % accuracy, 0.96 area."""
    logits = rng.normal(0, 3.5, rows)
    return (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int64), logits


def five_classes(rng: np.random.Generator, rows: int) -> tuple[NDArray[Any], Array]:
    """Classes of 40, 25, 20, 10 and 5 % of the rows."""
    labels = rng.choice(5, rows, p=(0.4, 0.25, 0.2, 0.1, 0.05))
    return labels, 2.5 * np.eye(5)[labels] + rng.normal(size=(rows, 5))


def numbers(rng: np.random.Generator, rows: int) -> tuple[NDArray[Any], Array]:
    """A regression that explains 80 % of the variance."""
    answers = rng.normal(0, 2, rows)
    return answers + rng.normal(0, 1, rows), answers


def rankings(rng: np.random.Generator, rows: int) -> tuple[NDArray[Any], Array]:
    """Queries of ten items with grades 0 to 3."""
    grades = rng.choice(4, (rows, _ITEMS), p=(0.6, 0.2, 0.15, 0.05)).astype(np.float64)
    grades[:, 0] = np.maximum(grades[:, 0], 1)
    return grades, grades + rng.normal(0, 0.7, (rows, _ITEMS))


def rare_large(rng: np.random.Generator, answers: Array) -> Array:
    """One row in ten is answered with the answer to another row."""
    return _mixed_up(rng, answers, 0.1)


def rarer_large(rng: np.random.Generator, answers: Array) -> Array:
    """One row in twenty is: of a hundred rows five, of which perhaps two lose much."""
    return _mixed_up(rng, answers, 0.05)


def _mixed_up(rng: np.random.Generator, answers: Array, share: float) -> Array:
    broken = rng.random(len(answers)) < share
    export = answers.copy()
    export[broken] = answers[rng.integers(0, len(answers), int(broken.sum()))]
    return export


def common_small(rng: np.random.Generator, answers: Array) -> Array:
    """Every answer moves a little: a fifth of what answers differ by."""
    return np.asarray(answers + 0.2 * answers.std() * rng.normal(size=answers.shape))


@dataclass(frozen=True)
class Case:
    """A metric, what it is measured on, and how the export is worse."""

    metric: str
    task: Callable[[np.random.Generator, int], tuple[NDArray[Any], Array]]
    harm: Callable[[np.random.Generator, Array], Array]

    def __str__(self) -> str:
        return f"{self.metric}, {self.harm.__name__.replace('_', ' ')}"

    def sample(self, rng: np.random.Generator, rows: int) -> Sample:
        labels, source = self.task(rng, rows)
        return Sample(labels, source, self.harm(rng, source))

    @functools.cache  # noqa: B019 - cases are few, and live as long as the process
    def true_drop(self, rows: int = POPULATION) -> float:
        sample = self.sample(np.random.default_rng(0), rows)
        found = compare_metrics(self._asked(1e9), {"y": sample.source}, {"y": sample.export}, {"label": sample.labels})
        drop = found.metrics[0].drop
        if drop is None or not drop > 0:
            raise ValueError(f"{self}: the harm is none, the drop is {drop}")
        return drop

    def passes(self, rng: np.random.Generator, rows: int, max_drop: float, *, harmless: bool = False) -> bool:
        sample = self.sample(rng, rows)
        export = sample.source if harmless else sample.export
        found = compare_metrics(self._asked(max_drop), {"y": sample.source}, {"y": export}, {"label": sample.labels})
        return all(finding.verdict is Verdict.PASSED for finding in found.findings)

    def share_passed(self, rows: int, max_drop: float, trials: int, *, harmless: bool = False) -> float:
        seeds = np.random.SeedSequence([rows, trials, round(1e9 * max_drop)]).spawn(trials)
        passed = (self.passes(np.random.default_rng(seed), rows, max_drop, harmless=harmless) for seed in seeds)
        return float(np.mean(list(passed)))

    def _asked(self, max_drop: float) -> EvaluationSpec:
        metric = MetricSpec(name=self.metric, output="y", label="label", max_drop=max_drop)
        return EvaluationSpec(data="simulated.npz", metrics=(metric,), confidence=CONFIDENCE)


TASKS = {
    "accuracy": two_classes,
    "macro_f1": five_classes,
    "roc_auc": two_classes,
    "log_loss": two_classes,
    "rmse": numbers,
    "mae": numbers,
    "r2": numbers,
    "ndcg": rankings,
}


def cases(only: str | None = None) -> Iterator[Case]:
    for metric, task in TASKS.items():
        if only in (None, metric):
            yield from (Case(metric, task, harm) for harm in (rare_large, common_small))


def beyond(only: str | None = None) -> Iterator[Case]:
    """Where no method holds its level: a row may cost any amount, and too few that cost much are among the rows
    (Bahadur & Savage 1956). Shown, so that nobody takes the promise for more than it is.
    """
    yield from (
        Case(name, TASKS[name], rarer_large) for name in ("log_loss", "rmse", "mae", "r2") if only in (None, name)
    )


def allowed(trials: int) -> float:
    """The share of passes at the margin that chance alone exceeds once in a thousand: 5 % and its binomial noise."""
    level = 1 - CONFIDENCE
    return level + 3.09 * math.sqrt(level * CONFIDENCE / trials)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=1000)
    arguments.add_argument("--only", choices=TASKS)
    asked = arguments.parse_args()
    started, wrong = time.monotonic(), 0
    curves: dict[str, list[list[float]]] = {}
    print(f"share passed where the true drop is exactly max_drop, {asked.trials:,} trials: 5 % and binomial noise")
    print(f"({allowed(asked.trials):.1%}) are allowed\n")
    print(f"{'':28}{'max_drop':>10}" + "".join(f"{f'n = {rows:,}':>12}" for rows in SIZES))
    for case in cases(asked.only):
        drop = case.true_drop()
        shares = [case.share_passed(rows, drop, asked.trials) for rows in SIZES]
        wrong += sum(share > allowed(asked.trials) for share in shares)
        print(f"{case!s:28}{drop:>10.4f}" + "".join(f"{share:>12.1%}" for share in shares), flush=True)
        curves[str(case)] = [
            [case.share_passed(rows, drop / (ratio or 1), asked.trials // 10, harmless=ratio == 0) for ratio in RATIOS]
            for rows in SIZES
        ]
    print("\nthe same where one row in twenty is harmed and a row may cost any amount: what no method can promise\n")
    for case in beyond(asked.only):
        drop = case.true_drop()
        shares = [case.share_passed(rows, drop, asked.trials) for rows in SIZES]
        print(f"{case!s:28}{drop:>10.4f}" + "".join(f"{share:>12.1%}" for share in shares), flush=True)
    print("\nshare passed where the true drop is so many times max_drop (0: the same answers)\n")
    print(f"{'':28}{'n':>7}" + "".join(f"{ratio:>8g}" for ratio in RATIOS))
    for name, by_size in curves.items():
        for rows, shares in zip(SIZES, by_size, strict=True):
            print(f"{name if rows == SIZES[0] else '':28}{rows:>7,}" + "".join(f"{share:>8.0%}" for share in shares))
    path = Settings.from_environment().home / "reports" / "noninferiority.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawing(curves))
    print(f"\n{path}; {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


# --- the drawing --------------------------------------------------------------------------------------------------

_WIDE, _HIGH, _GAP, _ACROSS = 260, 150, 56, 4
_COLOURS = ("#9a6700", "#0969da", "#1a7f37")


def drawing(curves: dict[str, list[list[float]]]) -> str:
    """One panel for each case: share passed against true drop / max_drop, a line for each number of rows."""
    down = -(-len(curves) // _ACROSS)
    width, height = _ACROSS * (_WIDE + _GAP) + _GAP, down * (_HIGH + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for number, (name, by_size) in enumerate(curves.items()):
        left, above = _GAP + number % _ACROSS * (_WIDE + _GAP), _GAP + number // _ACROSS * (_HIGH + _GAP)
        parts.append(f'<g transform="translate({left} {above})"><text y="-8" font-weight="bold">{name}</text>')
        parts.append(f'<path d="M0 0V{_HIGH}H{_WIDE}" fill="none" stroke="#57606a"/>')
        margin, level = _WIDE * 1 / RATIOS[-1], _HIGH * CONFIDENCE
        parts.append(f'<path d="M{margin} 0V{_HIGH}M0 {level}H{_WIDE}" stroke="#cf222e" stroke-dasharray="3"/>')
        for share in (0, 0.5, 1):
            parts.append(f'<text x="-6" y="{_HIGH * (1 - share) + 4}" text-anchor="end">{share:.0%}</text>')
        for ratio in RATIOS:
            parts.append(
                f'<text x="{_WIDE * ratio / RATIOS[-1]}" y="{_HIGH + 14}" text-anchor="middle">{ratio:g}</text>'
            )
        for rows, colour, shares in zip(SIZES, _COLOURS, by_size, strict=True):
            points = " ".join(
                f"{_WIDE * ratio / RATIOS[-1]:.1f},{_HIGH * (1 - share):.1f}"
                for ratio, share in zip(RATIOS, shares, strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            place = 12 + 14 * SIZES.index(rows)
            parts.append(f'<text x="{_WIDE - 4}" y="{place}" fill="{colour}" text-anchor="end">n = {rows:,}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    raise SystemExit(main())
