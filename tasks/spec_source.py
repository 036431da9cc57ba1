"""Where a spec's files are: the source, its entrypoint, the evaluation data. Checks of `tasks.spec_checks.CHECKS`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tasks.spec import Framework
from tasks.spec_document import KeyPath
from tasks.spec_draft import Draft, Found
from tasks.spec_hints import nearest
from tasks.spec_keys import EXPECTED

_ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MODELS_URI = re.compile(r"models:/(?!/)([^/@]+(/([0-9]+|latest)|@[^/@]+)|m-[^/@]+)(/.*)?")
_RUNS_URI = re.compile(r"runs:/(?!/)[^/]+/[^/].*")

#: What source files are called, by framework; a SavedModel is a folder, called anything. URIs of MLflow are looked
#: into when they are ingested.
_SUFFIXES: Mapping[Framework, tuple[str, ...]] = {
    Framework.PYTORCH: (".pt", ".pth", ".pt2", ".bin"),
    Framework.KERAS: (".keras",),
    Framework.SKLEARN: (".skops",),
    Framework.ONNX: (".onnx",),
}

_CONVERT: Mapping[Framework, str] = {
    Framework.PYTORCH: "save a state dict with torch.save(model.state_dict(), 'model.pt'), "
    "or an archive with torch.export.save(program, 'model.pt2')",
    Framework.KERAS: "save it with model.save('model.keras')",
    Framework.TENSORFLOW: "save a folder with tf.saved_model.save(model, 'folder')",
    Framework.SKLEARN: "save it with skops.io.dump(model, 'model.skops')",
    Framework.ONNX: "give the .onnx file",
}


def source_uri(draft: Draft, folder: Path) -> Found:
    """A file that is there and that its framework writes, or a URI that ingest can open."""
    uri, framework, key = draft.uri, draft.framework, ("source", "uri")
    if not uri:
        return
    if uri.startswith("models:"):
        if not _MODELS_URI.fullmatch(uri):
            yield key, f"expected models:/name/3 (a version) or models:/name@alias; found {uri!r}"
    elif uri.startswith("runs:"):
        if not _RUNS_URI.fullmatch(uri):
            yield key, f"expected runs:/run_id/path/of/artifact; found {uri!r}"
    elif problem := _uri_problem(uri):
        yield key, problem
    elif framework is not None and _suffix(uri) not in _SUFFIXES.get(framework, (_suffix(uri),)):
        what = f"a {_suffix(uri)} file" if _suffix(uri) else "a name without a suffix"
        yield key, f"{what} is not what Slipway reads of {framework}; {_CONVERT[framework]}"
    elif "://" not in uri:
        yield from _plain_path(folder / uri, key, framework)


def entrypoint(draft: Draft, folder: Path) -> Found:
    """There for PyTorch state dicts, absent elsewhere, and naming a callable of a module beside the spec."""
    framework, given, key = draft.framework, draft.entrypoint, ("source", "entrypoint")
    suffix = _suffix(draft.uri or "")
    if given is None:
        if framework is Framework.PYTORCH and suffix in (".pt", ".pth", ".bin") and not draft.written(*key):
            yield key, "is missing: a state dict holds only tensors; name what builds the module, such as model:build"
    elif framework not in (None, Framework.PYTORCH) or suffix == ".pt2":
        what = "a torch.export archive" if suffix == ".pt2" else f"a {framework} model"
        yield key, f"only PyTorch state dicts take an entrypoint, {what} describes itself; remove it"
    elif not _ENTRYPOINT.fullmatch(given):
        yield key, f"expected {EXPECTED['source.entrypoint']}; found {given!r}"
    else:
        yield from ((key, message) for message in _entrypoint_problems(folder, *given.split(":")))


def metric_callables(draft: Draft, folder: Path) -> Found:
    """Functions of modules beside the spec."""
    for path, texts in draft.texts("evaluation", "metrics"):
        given, key = texts.get("callable"), (*path, "callable")
        if given is None:
            continue
        if not _ENTRYPOINT.fullmatch(given):
            yield key, f"expected {EXPECTED['evaluation.metrics.*.callable']}; found {given!r}"
        else:
            yield from ((key, message) for message in _entrypoint_problems(folder, *given.split(":")))


def evaluation_data(draft: Draft, folder: Path) -> Found:
    """.npz or .parquet files that are there."""
    for uri, key in (
        (draft.data, ("evaluation", "data")),
        (draft.preprocessed, ("evaluation", "preprocessed", "data")),
    ):
        if uri:
            yield from ((key, problem) for problem in _table_problems(uri, folder))


def _table_problems(uri: str, folder: Path) -> Iterator[str]:
    path = folder / uri
    if uri.startswith(("models:", "runs:")):
        if not _RUNS_URI.fullmatch(uri):
            yield f"expected a path, a URI or runs:/run_id/path; found {uri!r}"
    elif problem := _uri_problem(uri):
        yield problem
    elif "://" not in uri and path.is_dir():
        yield f"{uri} is a folder; give one .npz or .parquet file"
    elif _suffix(uri) not in (".npz", ".parquet"):
        yield f"expected an .npz or .parquet file; found {uri!r}"
    elif "://" not in uri and not path.exists():
        yield f"there is no {path.name} in the folder {path.parent.name}{_neighbour(path)}"


def _suffix(uri: str) -> str:
    """Of the last part of a path or URI, without a URI's query."""
    path = uri.partition("?")[0] if "://" in uri else uri
    return Path(path).suffix.lower()


def _uri_problem(uri: str) -> str | None:
    """What is wrong with a URI's scheme or authority; None for plain paths."""
    if "://" not in uri:
        return None
    from fsspec.registry import available_protocols

    scheme = uri.partition("://")[0].partition("::")[0]
    if scheme not in available_protocols():
        return f"unknown scheme {scheme}://{nearest(scheme, ['models', 'runs', *available_protocols()])}"
    if urlsplit(uri).password:
        return "holds a password, and a spec is no place for one; give it through the environment"
    return None


def _plain_path(path: Path, key: KeyPath, framework: Framework | None) -> Found:
    if not path.exists():
        yield key, f"there is no {path.name} in the folder {path.parent.name}{_neighbour(path)}; is the model trained?"
    elif framework is None:
        return
    elif framework is Framework.TENSORFLOW and not (path / "saved_model.pb").is_file():
        yield key, f"{path.name} is not a SavedModel: there is no saved_model.pb in it; {_CONVERT[framework]}"
    elif framework is not Framework.TENSORFLOW and path.is_dir():
        yield key, f"{path.name} is a folder; {_CONVERT[framework]}"


def _neighbour(path: Path) -> str:
    """The nearest name in the same folder, where there is one."""
    return nearest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else ""


def _entrypoint_problems(folder: Path, module: str, attribute: str) -> Iterator[str]:
    stem = folder.joinpath(*module.split("."))
    found = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    if not found:
        here = [path.stem for path in folder.glob("*.py")]
        yield f"there is no module {module} in the spec's folder{nearest(module, here)}"
        return
    path = found[0].relative_to(folder)
    try:
        tree = ast.parse(found[0].read_bytes())
    except (SyntaxError, ValueError) as error:
        yield f"{path}:{getattr(error, 'lineno', 1)} is not Python: {getattr(error, 'msg', error)}"
        return
    names = set(_top_level_names(tree.body))
    if attribute not in names and "*" not in names:
        yield f"{path} defines no {attribute}{nearest(attribute, names)}"


def _top_level_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    """What a module's statements bind, `*` for a star import."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
            case ast.Assign(targets=targets):
                yield from (leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try() | ast.With():
                inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
                handlers = [stmt for handler in getattr(node, "handlers", ()) for stmt in handler.body]
                yield from _top_level_names([*inner, *handlers])
            case _:
                pass
