"""Whether a torch.export archive holds anything but tensors and a graph: read member by member, without opening it.

`torch.export.load` trusts what it reads. Of torch 2.13's archive it

    unpickles       data/sample_inputs (falls back to `weights_only=False`), weights and constants marked `use_pickle`,
                    custom and opaque objects, and files of the older layouts
    loads           data/aotinductor: compiled libraries
    evaluates       `expr_str` of symbolic sizes (sympy parses by `eval`), and `guards_code`, as Python
    writes code     with the names of nodes and attributes in it, and runs it
    looks up        operators by dotted name, from the module `torch` down: `torch.os.system` is one
    imports         modules that the tree specs of inputs and outputs name

So only what a plain program needs is let through: tensors as raw bytes, sample inputs that `weights_only=True` reads,
names that are names, arithmetic that is arithmetic, and PyTorch's own operators. The members are read with the reader
that the loader uses, so that both see the same bytes.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import SourceError, UnsafeSource
from tasks.ingest.archives import opened

_HOW = "export it again with torch.export.save(torch.export.export(model, args), 'model.pt2')"

_PLAIN_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|extra/[\w.-]+"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.@-]*", re.ASCII)
_SYMBOL = re.compile(r"[a-z]+\d+")

#: Operators are functions without side effects: PyTorch's own, symbolic arithmetic, and control flow over graphs.
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|quantized_decomposed)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast|flex_attention)"
    r"|torch\.(sym_(int|float|max|min|not|ite|sum)|_sym_sqrt)"
    r"|_operator\.(abs|add|and_|eq|floordiv|ge|getitem|gt|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift|sub|truediv)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
_FILE_OPERATORS = re.compile(r"torch\.ops\.aten\.(from_file|save|_print|warn|set_\w*storage\w*)\.\w+")

#: Containers of inputs and outputs. Others are deserialised by importing the module that they name.
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)

#: Functions in symbolic sizes: sympy's arithmetic and PyTorch's additions to it.
_ARITHMETIC = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan"
    "|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Piecewise|ExprCondPair|floor|ceiling|FloorDiv|ModularIndexing"
    "|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv"
    "|IsNonOverlappingAndDenseIndicator|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
    "|cast_symbool_to_symint_guardless|true|false|BooleanTrue|BooleanFalse|max|min|abs"
)
_OF_TENSORS = ("size", "stride", "storage_offset")
_OF_MATH = ("ceil", "floor", "trunc", "sqrt", "inf")
_ARITHMETIC_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.keyword,
    ast.Subscript,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
)


def refuse_code(path: Path) -> None:
    """Raise unless the archive holds only what a plain exported program needs.

    Raises:
        UnsafeSource: opening it could run code; the message says which part.
        SourceError: it is damaged, or not an archive that this PyTorch writes.
    """
    with opened(path, "a torch.export archive") as archive:
        names = archive.namelist()
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or not any(name.endswith("/archive_format") for name in names):
        raise SourceError(f"{path.name} is no torch.export archive, or one of an older PyTorch: {_HOW}")
    read = _reader(path)
    for member in sorted(name.partition("/")[2] for name in names):
        if not _PLAIN_MEMBERS.fullmatch(member):
            raise UnsafeSource(f"{path.name}: the member {member!r} {_why(member)}, so it is not opened: {_HOW}")
    try:
        _check_payload(path, _parsed(read("data/weights/model_weights_config.json")), "weight_")
        _check_payload(path, _parsed(read("data/constants/model_constants_config.json")), "tensor_")
        _check_program(path, _parsed(read("models/model.json")))
        _check_sample_inputs(path, read("data/sample_inputs/model.pt"))
    except (KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise SourceError(f"{path.name} is not laid out like a torch.export archive ({error}): {_HOW}") from error


def _reader(path: Path) -> Callable[[str], bytes]:
    from torch.export.pt2_archive import PT2ArchiveReader

    try:
        return PT2ArchiveReader(str(path)).read_bytes
    except (RuntimeError, AssertionError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name} cannot be read as a torch.export archive: {_HOW}") from error


def _why(member: str) -> str:
    if "aotinductor" in member:
        return "is a compiled library"
    if member.endswith(".pt") or "_obj_" in member:
        return "is pickled, and can run code when it is opened"
    return "is not known to Slipway"


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise KeyError(f"not JSON: {error}") from error


def _check_payload(path: Path, config: Any, prefix: str) -> None:
    for name, meta in config["config"].items():
        if meta["use_pickle"] is not False:
            raise UnsafeSource(f"{path.name}: {name!r} is pickled, and can run code when it is opened: {_HOW}")
        if not re.fullmatch(rf"{prefix}\d+", meta["path_name"]) or not _DOTTED.fullmatch(name):
            raise UnsafeSource(f"{path.name}: {name!r} in {meta['path_name']!r} is no tensor: {_HOW}")


def _check_sample_inputs(path: Path, content: bytes) -> None:
    """They are read by `weights_only=True`, or else unpickled: so they must be readable by the first."""
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever it is: the loader would fall back to unpickling after it
        raise UnsafeSource(
            f"{path.name}: its sample inputs hold more than tensors, and can run code when they are opened: {_HOW}"
        ) from error


# --- the program --------------------------------------------------------------------------------------------------


def _check_program(path: Path, program: Any) -> None:
    for key, text in _texts(program, ""):
        if problem := _RULES.get(key, _check_name)(text):
            shown = text if len(text) <= 80 else text[:77] + "…"
            raise UnsafeSource(f"{path.name}: {key} {shown!r} {problem}, so the program is not opened: {_HOW}")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in the document with the key that it stands under, and every key itself as a name."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if key not in ("metadata", *_FREE):
                yield ("name", name) if key not in ("range_constraints",) else ("symbol", name)
            yield from _texts(inner, key if key == "metadata" else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _check_name(text: str) -> str | None:
    return None if not text or _NAME.fullmatch(text) else "is no name"


def _check_dotted(text: str) -> str | None:
    return None if _DOTTED.fullmatch(text) else "is no name of a parameter or module"


def _check_symbol(text: str) -> str | None:
    return None if _SYMBOL.fullmatch(text) else "is no symbol"


def _check_operator(text: str) -> str | None:
    if _OPERATOR.fullmatch(text) and not _FILE_OPERATORS.fullmatch(text):
        return None
    return "is not one of PyTorch's own tensor operators"


def _check_arithmetic(text: str) -> str | None:
    """Numbers, symbols, sizes of inputs and arithmetic on them: nothing that could reach anything else."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "is no arithmetic"
    return None if all(_is_arithmetic(node) for node in ast.walk(tree)) else "is no arithmetic"


def _is_arithmetic(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in ("L", "math") or bool(_ARITHMETIC.fullmatch(name) or _SYMBOL.fullmatch(name))
        case ast.Attribute(value=ast.Name(id="math"), attr=attribute):
            return attribute in _OF_MATH
        case ast.Attribute(attr=attribute):
            return attribute in _OF_TENSORS
        case ast.Call(func=called):
            return isinstance(called, ast.Name | ast.Attribute)
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float) or _is_word(value)
        case _:
            return isinstance(node, _ARITHMETIC_NODES)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w*", value, re.ASCII) is not None


def _check_tree(text: str) -> str | None:
    """A tree spec: JSON of nested containers, whose dictionaries have names as keys."""
    try:
        _, tree = json.loads(text)
        waiting = [tree]
        while waiting:
            node = waiting.pop()
            if node["type"] not in _TREES:
                return f"names the container {node['type']!r}; return tuples, lists or dicts"
            context = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
            if context is not None and not all(_is_key(key) for key in list(context)):
                return "holds more than names"
            waiting += node["children_spec"]
    except (ValueError, KeyError, TypeError):
        return "is no tree of containers"
    return None


def _is_key(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and _NAME.fullmatch(key) is not None)


def _check_number(text: str) -> str | None:
    """Numbers that JSON has no notation for."""
    return None if text in ("Infinity", "-Infinity", "NaN") else "is no number"


def _check_version(text: str) -> str | None:
    return None if re.fullmatch(r"[\w.+<=-]*", text) else "is no version"


def _accept(_text: str) -> None:
    return None


#: Texts that are never looked up, evaluated or written into code: kept as they are, or given to an operator as a value.
_FREE = ("as_string", "as_strings", "metadata")

#: Key → what its texts must be; every other text must be a name.
_RULES: dict[str, Callable[[str], str | None]] = {
    **dict.fromkeys(_FREE, _accept),
    **dict.fromkeys(("target", "as_operator"), _check_operator),
    **dict.fromkeys(("expr_str", "guards_code"), _check_arithmetic),
    **dict.fromkeys(("in_spec", "out_spec"), _check_tree),
    **dict.fromkeys(
        ("fqn", "parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "user_input_name"),
        _check_dotted,
    ),
    **dict.fromkeys(("as_float", "as_floats", "as_float_lists", "real", "imag"), _check_number),
    "symbol": _check_symbol,
    "torch_version": _check_version,
}
