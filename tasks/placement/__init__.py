"""Where a package may run: instance types × formats as they were proven, and which of them to take.

prices.py           what the user's own file says an hour of a type costs
matrix.py           a `Package` and prices → one cell for each format on each instance type (pure)
recommendation.py   the matrix → a format and a type, why, and what was given up (pure)

The page that shows both is `tasks.overview`'s. `tasks.deployment` makes scheduling rules of them.
"""

from __future__ import annotations

from tasks.placement.matrix import Cell, Matrix, matrix_of
from tasks.placement.prices import HourlyPrice, known_prices
from tasks.placement.recommendation import Recommendation, recommend

__all__ = ["Cell", "HourlyPrice", "Matrix", "Recommendation", "known_prices", "matrix_of", "recommend"]
