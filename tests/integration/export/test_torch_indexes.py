"""An index that a request decides must lie inside, or the model is not compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors

from serving.contract import DimRange, DType, PreprocessStep, Signature, TensorSpec
from serving.preprocess import Preprocessing
from tasks.export.conversion import ExportFailure, Source
from tasks.export.input_spans import Span, spans_after
from tasks.export.torch_capture import capture
from tasks.export.torch_indexes import refuse_open_indexes
from tasks.export.torch_spans import Spans, Values
from tests.integration.export.zoo import F32, I64, LENGTH, signature, torch_model

ROWS = 10
Range = tuple[int | None, int | None] | None


def model(forward: Callable[[Any, Any], Any], takes: DType = I64, range: Range = None) -> tuple[Any, Signature]:
    """`forward(table, ids)`, with a table of ten rows of four numbers."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(ROWS, 4)
            self.register_buffer("shuffled", torch.randperm(ROWS))

        def forward(self, ids: Any) -> Any:
            return forward(self, ids)

    described = signature(
        {"ids": (takes, "batch", "length")},
        {"y": (F32, "batch", "length", 4)},
        {} if range is None else {"ids": range},
        length=LENGTH,
    )
    return torch_model(Model(), described).native, described


def check(native: Any, described: Signature, **made: Span) -> None:
    refuse_open_indexes(capture(native, described), described, made)


def refused(native: Any, described: Signature, **made: Span) -> ExportFailure:
    with pytest.raises(ExportFailure) as raised:
        check(native, described, **made)
    return raised.value


def looked_up(self: Any, ids: Any) -> Any:
    return self.table(ids)


# --- the input itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range", [None, (0, None), (None, ROWS - 1)])
def test_an_input_without_both_ends_is_named_with_the_range_to_declare(range: Range) -> None:
    found = refused(*model(looked_up, range=range))
    assert found.code == "EXPORT_INPUT_UNBOUNDED"
    assert found.message.startswith("input 'ids' is an index into table (Embedding)")
    assert "declare range: [0, 9] for 'ids'" in found.advice
    assert (found.evidence["input"], found.evidence["module"], found.evidence["entries"]) == ("ids", "table", ROWS)


@pytest.mark.parametrize("range", [(0, ROWS), (-1, ROWS - 1), (0, 10**6)])
def test_a_range_wider_than_the_table_is_refused_with_both(range: Range) -> None:
    found = refused(*model(looked_up, range=range))
    assert found.code == "EXPORT_INPUT_BEYOND_TABLE"
    assert f"declares the range {range[0]} to {range[1]} for input 'ids'" in found.message  # type: ignore[index]
    assert found.message.endswith("has 0 to 9")


def test_a_range_inside_the_table_is_let_through() -> None:
    check(*model(looked_up, range=(0, ROWS - 1)))


def test_the_exporter_refuses_before_it_compiles(tmp_path: Path) -> None:
    from tasks.export.torch_to_aoti import export

    native, described = model(looked_up)
    with pytest.raises(ExportFailure) as raised:
        export(Source(torch_model(native, described), tmp_path), described, tmp_path)
    assert raised.value.code == "EXPORT_INPUT_UNBOUNDED"
    assert list(tmp_path.iterdir()) == []


# --- what is computed of it ---------------------------------------------------------------------------------------


def by_index(self: Any, ids: Any) -> Any:
    return self.table.weight[ids]


def selected(self: Any, ids: Any) -> Any:
    return self.table.weight.index_select(0, ids.reshape(-1)).reshape(*ids.shape, 4)


def gathered(self: Any, ids: Any) -> Any:
    return self.table.weight.gather(0, ids.reshape(-1, 1).expand(-1, 4)).reshape(*ids.shape, 4)


def in_a_branch(self: Any, ids: Any) -> Any:
    import torch

    return torch.cond(ids.sum() > 3, self.table, lambda x: self.table(x) * 2, (ids,))


@pytest.mark.parametrize("forward", [by_index, selected, gathered, in_a_branch])
def test_every_operator_that_takes_an_index_is_looked_at(forward: Callable[..., Any]) -> None:
    assert refused(*model(forward)).evidence["input"] == "ids"


def from_rounded(self: Any, ids: Any) -> Any:
    return self.table(ids.round().long())


def test_an_index_that_is_rounded_from_a_float_is_never_known() -> None:
    found = refused(*model(from_rounded, F32, (0, ROWS - 1)))
    assert found.code == "EXPORT_INPUT_UNBOUNDED"
    assert "computed from input 'ids'" in found.message
    assert "clamp" in found.advice


@pytest.mark.parametrize(
    ("forward", "range", "inside"),
    [
        (lambda self, ids: self.table(ids + 1), (0, ROWS - 2), True),
        (lambda self, ids: self.table(ids + 1), (0, ROWS - 1), False),
        (lambda self, ids: self.table(ids - 2 * ids), (0, 3), False),
        (lambda self, ids: self.table(ids * 2), (0, 4), True),
        (lambda self, ids: self.table(ids % ROWS), None, True),
        (lambda self, ids: self.table(ids % (ROWS + 1)), None, False),
        (lambda self, ids: self.table(ids.clamp(0, ROWS - 1)), None, True),
        (lambda self, ids: self.table(ids.clamp(max=ROWS - 1)), None, False),
        (lambda self, ids: self.table(ids.clamp(0, ROWS)), None, False),
        (lambda self, ids: self.table((ids > 3).long()), None, True),
        (lambda self, ids: self.table((ids != 1).long().cumsum(1)), None, False),  # 12 places, 10 rows
        (lambda self, ids: self.table(self.shuffled[ids]), (0, ROWS - 1), True),
        (lambda self, ids: self.table(self.shuffled[ids] + 1), (0, ROWS - 1), False),
        (lambda self, ids: self.table(ids.to(dtype=_int8()).long()), (0, 300), False),  # comes round
        (lambda self, ids: self.table(ids.to(dtype=_int8()).long()), (0, 9), True),
        (lambda self, ids: self.table(ids.flip(1).transpose(0, 1)).transpose(0, 1), (0, 9), True),
        (lambda self, ids: self.table(ids.sort(1).values), (0, 9), True),
        (lambda self, ids: self.table(ids.new_zeros(ids.shape)), None, True),
        (lambda self, ids: self.table(ids.div(2, rounding_mode="floor")), (0, 9), False),  # not followed: not known
    ],
)  # fmt: skip
def test_what_is_computed_of_it_is_followed(forward: Callable[..., Any], range: Range, inside: bool) -> None:
    native, described = model(forward, range=range)
    if inside:
        check(native, described)
    else:
        assert refused(native, described).evidence["input"] == "ids"


def _int8() -> Any:
    import torch

    return torch.int8


def test_positions_and_the_greatest_of_a_fixed_width_need_no_range() -> None:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.kinds = nn.Embedding(LENGTH.max, 4), nn.Embedding(4, 4)

        def forward(self, x: Any) -> Any:
            return x + self.places(torch.arange(x.shape[1])) + self.kinds(x.argmax(2))

    described = signature({"x": (F32, "batch", "length", 4)}, {"y": (F32, "batch", "length", 4)}, length=LENGTH)
    check(torch_model(Model(), described).native, described)


def test_no_value_ever_lies_outside_its_span() -> None:
    """Every operator that is followed, run on the ends of the range and on what is between them."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def forward(self, ids: Any) -> Any:
            other = ids.flip(1)[:, :1] - 3
            wrapped = (ids * 7 + 90).to(torch.int8).long()
            chosen = torch.where(ids > other, ids, other).masked_fill(ids == 2, -11)
            values, places = ids.topk(2)
            kept = torch.cat([chosen, -ids, ids % 4, torch.sub(ids, other, alpha=-2), values, places], 1)
            kept = torch.cat([kept, torch.stack([ids.argmax(1), ids.amin(1)], 1), ids.sort(1)[1]], 1)
            bounded = torch.minimum(kept, torch.full_like(kept, 9)).clamp(min=-8)
            counted = torch.cat([(ids != 1).long().cumsum(1), ids.cumsum(1), ids.relu(), wrapped], 1)
            padded = nn.functional.pad(bounded + counted.max() + torch.maximum(ids, other)[:, 0:1], (1, 1), value=77)
            return padded + torch.arange(3, 3 + padded.shape[1]), torch.arange(ids.shape[0]) * ids.shape[0]

    described = signature({"ids": (I64, "batch", 5)}, {"y": (I64, "batch", 33), "z": (I64, "batch")}, {"ids": (-5, 12)})
    program = capture(torch_model(Model(), described).native, described).run_decompositions()
    spans, seen = Spans(program), set()

    class Checked(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            if n.op == "placeholder":
                spans.give(n, Values(Span(-5, 12), frozenset({"ids"}), is_input=True))
            elif n.op == "call_function":
                spans.follow(n)
            found, span = super().run_node(n), spans.of(n).span
            if n.op == "call_function" and isinstance(found, torch.Tensor | int):
                assert span.least <= int(torch.as_tensor(found).min()), n
                assert int(torch.as_tensor(found).max()) <= span.greatest, n
                seen.add(n.target)
            return found

    for seed in range(5):
        ids = torch.randint(-5, 13, (3 + seed, 5), generator=torch.Generator().manual_seed(seed))
        ids[0, 0], ids[1, 3] = -5, 12
        Checked(program.graph_module).run(ids)
    assert len(seen) > 20


# --- what preprocessing makes -------------------------------------------------------------------------------------


def test_preprocessing_says_what_it_can_give(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 7}, unk_token="a"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:1", special_tokens=[])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = ("tokens", "mask", "kinds")
    described = Signature(
        (*(TensorSpec(name, I64, ("batch", 5)) for name in names), TensorSpec("colour", I64, ("batch",), (5, 5))),
        (),
        {"batch": DimRange(1, 4)},
    )
    steps = (
        PreprocessStep("tokenize", "tokens", file="tokenizer.json", mask="mask", type_ids="kinds"),
        PreprocessStep("vocabulary", "colour", values=("red", "green"), first=3, unknown=1),
    )
    assert spans_after(Preprocessing(steps, described, tmp_path)) == {
        "tokens": Span(0, 7),
        "mask": Span(0, 1),
        "kinds": Span(0, 1),
        "colour": Span(1, 4),
    }


def test_ids_that_preprocessing_makes_need_no_range_and_must_be_in_the_table() -> None:
    check(*model(looked_up), ids=Span(0, ROWS - 1))
    found = refused(*model(looked_up), ids=Span(0, ROWS))
    assert found.code == "EXPORT_INPUT_BEYOND_TABLE"
    assert "preprocessing gives 0 to 10 for input 'ids'" in found.message
