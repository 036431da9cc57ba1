"""A spec with other formats or instance types than it was written with: what a person may choose for one run.

In: a valid spec and the choices. Out: a spec that is as valid. It is another spec, so it makes another package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tasks.errors import BadInput
from tasks.export.formats import ALL, formats_of, named_formats
from tasks.smoke.catalogue import instance_type
from tasks.spec import ModelSpec
from tasks.spec_hints import nearest


def narrowed(spec: ModelSpec, formats: Sequence[str], instance_types: Sequence[str]) -> ModelSpec:
    """`spec` with these formats (or `all`) and instance types; an empty choice keeps the spec's own.

    Raises:
        BadInput: the framework cannot give a format, or the catalogue has no such instance type.
    """
    chosen = named_formats(tuple(dict.fromkeys(formats)), spec.source.framework) or spec.formats
    types = tuple(dict.fromkeys(instance_types)) or spec.smoke.instance_types
    possible = formats_of(spec.source.framework)
    problems = [_no_format(name, spec, possible) for name in chosen if name not in possible]
    problems += _unknown_types(types)
    if problems:
        raise BadInput("\n".join(problems))
    every = list(formats) == [ALL] or (spec.every_format and chosen == spec.formats)
    smoke = spec.smoke.model_copy(update={"instance_types": types})
    return spec.model_copy(update={"formats": chosen, "every_format": every, "smoke": smoke})


def refuse_unknown_types(names: Iterable[str]) -> None:
    """Refuse instance types that the catalogue does not have.

    Raises:
        BadInput: every one of them, with the nearest names.
    """
    if problems := _unknown_types(names):
        raise BadInput("\n".join(problems))


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse parameters that a run was started with and does not take, which Airflow lets through.

    Raises:
        BadInput: with the nearest name of each.
    """
    known = tuple(known)
    unknown = [f"{name!r}{nearest(name, known)}" for name in given if name not in known]
    if unknown:
        raise BadInput(f"unknown parameters: {', '.join(unknown)}; there are {', '.join(known)}")


def _no_format(name: str, spec: ModelSpec, possible: Sequence[str]) -> str:
    if name == ALL:
        return "formats: all stands alone: every format is in it"
    near = difflib.get_close_matches(name, possible, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it can be {', '.join(possible)}"
    return f"formats: a {spec.source.framework} model cannot be written as {name!r}: {hint}"


def _unknown_types(names: Iterable[str]) -> list[str]:
    problems = []
    for name in names:
        try:
            instance_type(name)
        except BadInput as error:
            problems.append(f"instance types: {error}")
    return problems
