"""What is expected of evaluation data beyond that its columns fit: run by ingest, a gate of its own.

In: columns as ingest checked them, the spec, a scratch folder. Out: a `DataReport` with Data Docs in the store.

**Failed**: the data says something wrong. A value that is missing, infinite or out of its declared range (the server
refuses such a request, so production never asks it), a label that is no class of the output, the same row over and
over.

**Inconclusive**: nothing can be shown with it. One class only, a constant number to predict, more copies than
originals.

**Remarks**: what parity will see less of. Positions that never change, values that stand in for missing ones, classes
of few rows, repeated rows. The model may have been trained on just that, so none of them blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import NanPolicy, Signature, TensorSpec
from serving.preprocess import raw_signature
from tasks.contracts import DataReport, Verdict
from tasks.expectations import tabulation as tabulated
from tasks.expectations.data_docs import build
from tasks.expectations.rules import Rule, Table
from tasks.expectations.tabulation import Label, classes_table, columns_table, rows_table
from tasks.expectations.validation import check
from tasks.spec import ModelSpec
from tasks.store import Store

#: With no failure among n rows, the upper 95 % bound of the failure rate is 3/n (Hanley and Lippman-Hand 1983, "If
#: nothing goes wrong, is everything all right?", JAMA 249(13)): fewer rows than this cannot show that a class loses
#: less than a tenth.
FEW_ROWS_OF_CLASS = 30
#: Independent rows are what every confidence bound counts; with fewer originals than this it counts mostly copies.
LEAST_ORIGINALS = 0.5
#: Metrics whose labels name classes, beside `top2`, `top5`, …; of any other, labels are numbers to predict.
_OF_CLASSES = ("accuracy", "macro_f1", "roc_auc", "log_loss")


def examine(columns: Mapping[str, NDArray[Any]], spec: ModelSpec, store: Store, work: Path) -> DataReport:
    """Check the evaluation data, and write down what was expected and found."""
    checked = check(tables(columns, spec), "DATA")
    return DataReport(
        verdict=checked.verdict,
        findings=checked.findings,
        expectations=checked.expectations,
        docs=build(checked, f"{spec.name}, evaluation data", store, work / "data_docs"),
    )


def tables(columns: Mapping[str, NDArray[Any]], spec: ModelSpec) -> tuple[Table, ...]:
    """What Great Expectations is asked about."""
    raw = raw_signature(spec.signature, spec.preprocess)
    labels = _labels(spec)
    rows = rows_table(columns, raw.inputs, labels)
    found = [
        Table(
            "rows",
            "row",
            "rows",
            tabulated.ROW,
            rows,
            tuple(_row_rules(rows, columns, raw, labels)),
            shown=tuple(label.name for label in labels),
        ),
        Table(
            "columns",
            "column",
            "columns",
            tabulated.COLUMN,
            columns_table(columns, raw, labels),
            tuple(_column_rules(raw, labels, len(rows))),
            shown=(tabulated.POSITIONS, tabulated.SHAPE),
        ),
    ]
    for label in labels:
        if label.is_class:
            frame = classes_table(columns[label.name], label)
            rules = tuple(_class_rules(label))
            found.append(Table(f"classes of {label.name}", "class", "classes", tabulated.CLASS, frame, rules))
    return tuple(found)


def _labels(spec: ModelSpec) -> tuple[Label, ...]:
    outputs = {tensor.name: tensor for tensor in spec.outputs}
    found: dict[str, Label] = {}
    for metric in spec.evaluation.metrics:
        output = outputs.get(metric.output)
        is_class = metric.callable is None and (metric.name in _OF_CLASSES or metric.name.startswith("top"))
        classes = None
        if is_class and output is not None and output.dtype.is_float:
            axis = output.shape[-1] if len(output.shape) > 1 else 1
            classes = max(axis, 2) if isinstance(axis, int) else None  # one score a row tells two classes apart
        earlier = found.get(metric.label)
        if earlier is None or (earlier.classes is None and is_class):
            found[metric.label] = Label(metric.label, metric.output, is_class, classes)
    return tuple(found.values())


# --- one row per example ------------------------------------------------------------------------------------------


def _row_rules(
    rows: Any, columns: Mapping[str, NDArray[Any]], raw: Signature, labels: tuple[Label, ...]
) -> Iterator[Rule]:
    for tensor in raw.inputs:
        if tabulated.beyond(tensor.name) in rows:
            yield Rule(
                "expect_column_values_to_be_in_set",
                {"column": tabulated.beyond(tensor.name), "value_set": [0]},
                f"every value of {tensor.name!r} lies in its range {_range(tensor)}",
                "DATA_OUT_OF_RANGE",
                Verdict.FAILED,
                "remove these rows, or correct the input's range in model.yaml: the server refuses such requests",
            )
        if tabulated.missing(tensor.name) not in rows:
            continue
        if tensor.nan is NanPolicy.REFUSE:
            yield Rule(
                "expect_column_values_to_be_in_set",
                {"column": tabulated.missing(tensor.name), "value_set": [0]},
                f"no value of {tensor.name!r} is missing (NaN)",
                "DATA_MISSING_VALUES",
                Verdict.FAILED,
                "remove these rows, declare under preprocess how training filled them in (impute), or say `nan: accept`"
                " where the model knows missing values: else the server refuses requests with NaN",
            )
        yield Rule(
            "expect_column_values_to_be_in_set",
            {"column": tabulated.infinite(tensor.name), "value_set": [0]},
            f"every value of {tensor.name!r} is finite",
            "DATA_INFINITE_VALUES",
            Verdict.FAILED,
            "remove these rows, or clip the values as training did: the server refuses requests with infinities",
        )
    yield Rule(
        "expect_column_unique_value_count_to_be_between",
        {"column": tabulated.INPUTS, "min_value": min(2, len(rows))},
        "the inputs are not the same in every row",
        "DATA_ROWS_ALL_EQUAL",
        Verdict.FAILED,
        "look at how the evaluation data was written: all rows ask the same question",
    )
    if any(columns[tensor.name].dtype.kind == "f" for tensor in raw.inputs):  # few ids have few combinations
        yield Rule(
            "expect_column_proportion_of_unique_values_to_be_between",
            {"column": tabulated.INPUTS, "min_value": LEAST_ORIGINALS},
            f"at least {LEAST_ORIGINALS:.0%} of the rows have inputs of their own",
            "DATA_MOSTLY_DUPLICATES",
            Verdict.INCONCLUSIVE,
            "give each example once: confidence bounds count rows, and copies make them look surer than they are",
        )
    yield Rule(
        "expect_column_values_to_be_unique",
        {"column": tabulated.INPUTS},
        "no two rows have the same inputs",
        "DATA_DUPLICATE_ROWS",
        Verdict.PASSED,
        "nothing, where examples do repeat; otherwise give each of them once",
    )
    for label in labels:
        yield from _label_rules(rows, label)


def _range(tensor: TensorSpec) -> str:
    least, greatest = tensor.range or (None, None)
    return f"{'…' if least is None else least} to {'…' if greatest is None else greatest}"


def _label_rules(rows: Any, label: Label) -> Iterator[Rule]:
    if tabulated.outside(label.name) in rows and label.classes is not None:
        yield Rule(
            "expect_column_values_to_be_in_set",
            {"column": tabulated.outside(label.name), "value_set": [0]},
            f"every value of {label.name!r} is a class of {label.output!r}, a whole number from 0 to "
            f"{label.classes - 1}",
            "DATA_LABEL_NO_CLASS",
            Verdict.FAILED,
            "number the labels as the model's outputs are ordered, beginning with 0",
        )
    if not label.is_class:
        yield Rule(
            "expect_column_unique_value_count_to_be_between",
            {"column": label.name, "min_value": min(2, len(rows))},
            f"the label {label.name!r} is not the same in every row",
            "DATA_LABEL_CONSTANT",
            Verdict.INCONCLUSIVE,
            "give rows with other labels: a model that always says the same would look right",
        )


# --- one row per column -------------------------------------------------------------------------------------------


def _column_rules(raw: Signature, labels: tuple[Label, ...], rows: int) -> Iterator[Rule]:
    yield Rule(
        "expect_column_distinct_values_to_equal_set",
        {
            "column": tabulated.COLUMN,
            "value_set": sorted({*(tensor.name for tensor in raw.inputs), *(label.name for label in labels)}),
        },
        "there is a column for every input and label",
        "DATA_COLUMNS",
        Verdict.FAILED,
        "name the columns after the inputs and labels of model.yaml",
    )
    for what, found, declared in (
        ("dtype", tabulated.DTYPE, tabulated.DECLARED_DTYPE),
        ("shape", tabulated.SHAPE, tabulated.DECLARED_SHAPE),
    ):
        yield Rule(
            "expect_column_pair_values_to_be_equal",
            {"column_A": found, "column_B": declared},
            f"every input has the {what} that clients send",
            f"DATA_{what.upper()}",
            Verdict.FAILED,
            f"save the column with the {what} of model.yaml",
        )
    if rows > 1:
        yield Rule(
            "expect_column_values_to_be_in_set",
            {"column": tabulated.CONSTANT, "value_set": [0]},
            "every position of every input changes between rows",
            "DATA_CONSTANT_POSITIONS",
            Verdict.PASSED,
            "nothing, where these are always so; otherwise give rows in which they differ: what the export does with "
            "other values there is not compared",
        )
    yield Rule(
        "expect_column_values_to_be_in_set",
        {"column": tabulated.STAND_INS, "value_set": [0]},
        "no position holds a number that stands in for a missing value (such as -999)",
        "DATA_STAND_IN_VALUES",
        Verdict.PASSED,
        "nothing, where the model was trained with it; otherwise fill the values in as training did",
    )


# --- one row per class --------------------------------------------------------------------------------------------


def _class_rules(label: Label) -> Iterator[Rule]:
    yield Rule(
        "expect_column_max_to_be_between",
        {"column": tabulated.SHARE, "max_value": 1, "strict_max": True},
        f"the label {label.name!r} has more than one class",
        "DATA_ONE_CLASS",
        Verdict.INCONCLUSIVE,
        "give rows of the other classes: a model that always names this one would look right",
    )
    yield Rule(
        "expect_column_values_to_be_between",
        {"column": tabulated.ROWS, "min_value": FEW_ROWS_OF_CLASS},
        f"every class of {label.name!r} has at least {FEW_ROWS_OF_CLASS} rows",
        "DATA_FEW_ROWS_OF_CLASS",
        Verdict.PASSED,
        f"give at least {FEW_ROWS_OF_CLASS} rows of each class that matters: fewer cannot show that it loses less "
        "than a tenth",
    )
