"""What may stand in a torch.export archive as arithmetic, operator or tree, and what not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ingest.torch_archive import _check_arithmetic, _check_name, _check_operator, _check_tree


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s17', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', positive=True, integer=True))",
        "Symbol('s0', integer=True) + 3*Symbol('s1', integer=True)",
        "FloorDiv(Symbol('s0', integer=True), Integer(2))",
        "Max(1, Symbol('u0', integer=True))",
        "L['x'].size()[0] == L['y'].size()[0]",
        "((3*L['y'].size()[0]) % L['x'].size()[0]) == 0",
        "2 <= L['x']['inner'][0].size()[1] and L['x'].stride()[0] != 1",
        "math.ceil(L['x'].size()[0] / 2) < math.inf",
        "not (L['n'] > 3)",
    ],
)
def test_arithmetic_on_sizes_is_accepted(text: str) -> None:
    assert _check_arithmetic(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "().__class__.__bases__[0].__subclasses__()",
        "Symbol('s0').__class__",
        "L.__class__",
        "L['x'].tolist()",
        "L['__import__(1)']",
        "math.__loader__",
        "torch.os.system('x')",
        "eval('1')",
        "open('/etc/passwd')",
        "getattr(L, 'x')",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "(x := 1)",
        "f'{L}'",
        "L['x']()",
        "Symbol('s0'); 1",
        "import os",
        "Symbol('a b')",
        "L['\" + str(1) + \"'] == 0",
        "'\" + str(1) + \"' == 0",
        "b'x'",
        "1 if (yield) else 2",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert _check_arithmetic(text) is not None


@given(st.text(max_size=60))
def test_no_text_makes_the_check_fail(text: str) -> None:
    for check in (_check_arithmetic, _check_name, _check_operator, _check_tree):
        assert check(text) is None or isinstance(check(text), str)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("torch.ops.aten.linear.default", True),
        ("torch.ops.higher_order.cond", True),
        ("_operator.getitem", True),
        ("torch.sym_max", True),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.load_library", False),
        ("torch.ops.mine.evil.default", False),
        ("torch.ops.higher_order.call_torchbind", False),
        ("torch.os.system", False),
        ("torch.hub.load", False),
        ("torch.ops.aten.linear.default.__globals__", False),
        ("_operator.attrgetter", False),
        ("_operator.methodcaller", False),
        ("math.__loader__", False),
        ("#extension:op", False),
        ("os.system", False),
    ],
)
def test_only_pytorchs_own_tensor_operators_are_accepted(text: str, accepted: bool) -> None:
    assert (_check_operator(text) is None) is accepted


def tree(kind: str | None, context: object, *children: object) -> str:
    return json.dumps([1, {"type": kind, "context": context, "children_spec": list(children)}])


LEAF = {"type": None, "context": None, "children_spec": []}


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (tree("builtins.tuple", "null", LEAF, LEAF), True),
        (tree("builtins.dict", '["a", "b"]', LEAF, LEAF), True),
        (tree("collections.OrderedDict", '["a"]', LEAF), True),
        (tree("collections.defaultdict", {"default_factory_module": "os"}, LEAF), False),
        (tree("collections.namedtuple", '"a"', LEAF), False),
        (tree("builtins.dict", '[{"__enum__": true, "fqn": "os:x", "name": "y"}]', LEAF), False),
        (tree("builtins.dict", '["a\']; import os"]', LEAF), False),
        (tree("builtins.tuple", "null", {"type": "evil", "context": None, "children_spec": []}), False),
        ("not json", False),
    ],
)
def test_only_plain_containers_with_names_are_accepted(text: str, accepted: bool) -> None:
    assert (_check_tree(text) is None) is accepted
