"""Great Expectations' Data Docs as a static site: what was found, and what is expected, a page each.

In: `Checked`. Out: the site's files in the store, or none where nothing could be checked. The content is rendered by
Great Expectations; the frame around it (`page.j2`) is ours, because theirs loads styles, scripts and a logo from six
other hosts. So each page is one file that needs no network, also in MLflow's artifact view, where links between files
do not work; and the same results give the same bytes: no times, no ids, no paths.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import FileTree
from tasks.expectations.validation import PLACE, Checked, Validation
from tasks.store import Store, put_tree

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

#: Tables with more rows than a page can be read with are not shown themselves.
_SHOWN_ROWS = 50
#: The pages, and the one that is opened first.
INDEX, EXPECTED = "index.html", "expectations.html"


def build(checked: Checked, title: str, store: Store, folder: Path) -> FileTree | None:
    """Write the site into `folder`, which is made, and store it."""
    if not checked.validations:
        return None
    folder.mkdir(parents=True)
    view = _View()
    for name, what, sections in (
        (INDEX, "what was found", _found(checked)),
        (EXPECTED, "what is expected", _expected(checked)),
    ):
        text = view.page(title=title, what=what, here=name, checked=checked, sections=sections)
        (folder / name).write_text(text)
    return put_tree(store, folder)


class _View:
    """Great Expectations' view with our frame, and with numbers in the place of random ids."""

    def __init__(self) -> None:
        from great_expectations.render.view import DefaultJinjaPageView
        from jinja2 import ChoiceLoader, PackageLoader

        self._view = DefaultJinjaPageView()
        # Looked for in order: of templates that both have (`page.j2`), ours are taken.
        ours = PackageLoader("tasks.expectations", "templates")
        self._view.env.loader = ChoiceLoader([ours, self._view.env.loader])
        numbers = itertools.count(1)
        self._view.env.filters["generate_html_element_uuid"] = lambda prefix=None: f"{prefix or ''}{next(numbers)}"

    def page(self, *, sections: list[Any], here: str, **values: Any) -> str:
        """One page: `sections` as Great Expectations renders them, the rest as `page.j2` takes it."""
        from great_expectations.render import RenderedDocumentContent

        document = RenderedDocumentContent(renderer_type="ValidationResultsPageRenderer", sections=sections)
        lines = self._view.render(document, here=here, pages=(INDEX, EXPECTED), **values).splitlines()
        return "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"


def _found(checked: Checked) -> list[Any]:
    """Every table's results, after its statistics."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    renderer = ValidationResultsPageRenderer(run_info_at_end=True)
    sections: list[Any] = []
    for validation in checked.validations:
        document = renderer.render(_without_place_and_time(validation))
        overview, *columns = document.sections[:-1]  # the last is about the run: times and ids
        overview.content_blocks = [
            *overview.content_blocks[1:],  # the first is a link into a site of several
            *([_shown(validation)] if len(validation.table.frame) <= _SHOWN_ROWS else []),
        ]
        sections += _named(validation, [overview, *columns])
    return sections


def _shown(validation: Validation) -> Any:
    """The table itself."""
    from great_expectations.render import RenderedTableContent

    frame = validation.table.frame
    return RenderedTableContent(
        content_block_type="table",
        header="The table",
        header_row=[str(name) for name in frame.columns],
        table=[[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)],
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return str(value)


def _expected(checked: Checked) -> list[Any]:
    """Every suite, whatever came of it."""
    from great_expectations.render.renderer.page_renderer import ExpectationSuitePageRenderer

    sections: list[Any] = []
    for validation in checked.validations:
        overview, *columns = ExpectationSuitePageRenderer().render(validation.suite).sections
        overview.content_blocks = overview.content_blocks[2:]  # a heading, and the version with its help texts
        sections += _named(validation, [overview, *columns])
    return sections


def _named(validation: Validation, sections: list[Any]) -> list[Any]:
    """With the table's name before the first of them, and without those that hold nothing."""
    kept = [section for section in sections if section.content_blocks]
    for section in kept:
        section.section_name = validation.table.name if section is kept[0] else ""
    return kept


def _without_place_and_time(validation: Validation) -> ExpectationSuiteValidationResult:
    """The result without what differs between two runs over the same data, and without tracebacks: they hold paths."""
    result = validation.result
    result.meta = {"great_expectations_version": result.meta["great_expectations_version"]}
    for each in result.results:
        entries = [each.exception_info] if "raised_exception" in each.exception_info else each.exception_info.values()
        for entry in entries:
            entry["exception_traceback"] = None
    result.results.sort(key=lambda each: (each.success, each.expectation_config.meta[PLACE]))
    return result
