"""Which value of a file is which of the source: by name, by what the exporter noted, by module."""

from __future__ import annotations

from tasks.parity.divergence.onnx_graph import Graph, Operator
from tasks.parity.divergence.pairing import match, pairs_of
from tasks.parity.divergence.source_values import SourceValue


def graph(*operators: Operator, outputs: tuple[str, ...] = ()) -> Graph:
    return Graph(operators, ("x",), outputs, frozenset({"w"}), {})


def op(index: int, inputs: str, outputs: str, *scopes: str, kind: str = "MatMul") -> Operator:
    return Operator(index, kind, f"node{index}", tuple(inputs.split()), tuple(outputs.split()), {}, scopes)


def values(**described: str) -> dict[str, SourceValue]:
    """name → "module: inputs"."""
    found = {}
    for name, text in described.items():
        module, _, inputs = text.partition(":")
        found[name] = SourceValue(name, module, "Linear", "aten.linear.default", tuple(inputs.split()), {})
    return found


def test_the_same_name_is_the_same_value() -> None:
    file = graph(op(0, "x w", "linear"), op(1, "linear", "relu"))
    assert match(file, values(linear="a: x", relu="b: linear"), {}) == {"linear": "linear", "relu": "relu"}


def test_outputs_are_paired_by_their_place_in_the_signature() -> None:
    file = graph(op(0, "x w", "logits"), outputs=("logits",))
    assert match(file, values(linear_8="head: x"), {"logits": "linear_8"}) == {"logits": "linear_8"}


def test_the_last_node_of_an_operator_has_its_result() -> None:
    file = graph(op(0, "x w", "val_7", "", "a", "linear"), op(1, "val_7 w", "sum", "", "a", "linear", kind="Add"))
    assert match(file, values(linear="a: x"), {}) == {"sum": "linear"}


def test_the_only_element_of_a_tuple_is_the_operator_s_result() -> None:
    file = graph(op(0, "x w", "val_9", "", "memory", "lstm"))
    assert match(file, values(lstm="memory: x", getitem="memory: lstm"), {}) == {"val_9": "getitem"}


def test_a_value_that_tf2onnx_finishes_in_a_second_operator_is_the_finished_one() -> None:
    file = graph(op(0, "x", "n/Rsqrt:0", kind="Sqrt"), op(1, "n/Rsqrt:0", "n/Rsqrt__78:0", kind="Reciprocal"))
    source = {"n/Rsqrt:0": SourceValue("n/Rsqrt:0", "n", "LayerNormalization", "Rsqrt", (), {})}
    assert match(file, source, {}) == {"n/Rsqrt__78:0": "n/Rsqrt:0"}


def test_scopes_that_were_counted_differently_are_the_same_scopes() -> None:
    file = graph(op(0, "x w", "functional_1/dense_1/MatMul:0"))
    name = "functional_3/dense_1/MatMul:0"
    source = {name: SourceValue(name, "dense", "Dense", "MatMul", (), {})}
    assert match(file, source, {}) == {"functional_1/dense_1/MatMul:0": name}


def test_a_file_that_keeps_only_module_names_is_paired_at_the_modules_ends() -> None:
    file = graph(
        op(0, "x w", "/encoder/layers.0/norm/Sub_output_0"),
        op(1, "/encoder/layers.0/norm/Sub_output_0 w", "/encoder/layers.0/norm/Add_output_0", kind="Add"),
    )
    source = values(layer_norm="encoder.layers.0.norm: x")
    assert match(file, source, {}) == {"/encoder/layers.0/norm/Add_output_0": "layer_norm"}


def test_nothing_is_paired_where_no_name_is_known() -> None:
    assert match(graph(op(0, "x w", "17")), values(linear="a: x"), {}) == {}


def test_a_pair_knows_what_it_is_computed_from_and_what_lies_between() -> None:
    file = graph(op(0, "x w", "a"), op(1, "a", "inner", kind="Mul"), op(2, "inner a", "c", kind="Add"))
    source = values(a="first: x", b="second: a", c="third: b a")
    pairs = pairs_of(file, {"a": "a", "c": "c"}, source)
    assert [pair.upstream for pair in pairs] == [(), (0,)]
    assert [operator.kind for operator in pairs[1].operators] == ["Mul", "Add"]
    assert [value.module for value in pairs[1].stretch] == ["second"]
