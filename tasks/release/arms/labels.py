"""The labels by which containers that stay are found again, by whoever looks: no process owns them."""

from __future__ import annotations

#: Which model a container serves or routes for.
MODEL_LABEL = "io.slipway.model"
#: The digest of the package that an arm serves.
PACKAGE_LABEL = "io.slipway.package"
#: The SLIPWAY_HOME from which it was started: another one's containers are left alone.
HOME_LABEL = "io.slipway.home"
