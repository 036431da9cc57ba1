"""All packages at a glance, for people: a page in Airflow's navigation, the table at the end of `make demo`.

view.py      packages and their records → what is shown of them (pure)
page.py      what is shown → HTML: all packages (packages.html), one's instance types (matrix.html), releases
             (releases.html); imports no Airflow
"""

from __future__ import annotations

from tasks.overview.page import render_matrix, render_page, render_releases
from tasks.overview.view import FormatRow, PackageView, view_of

__all__ = ["FormatRow", "PackageView", "render_matrix", "render_page", "render_releases", "view_of"]
