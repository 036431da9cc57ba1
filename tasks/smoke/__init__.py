"""Smoke: the real image, started under each instance type's limits, must answer as the source model did."""

from tasks.smoke.catalogue import InstanceType, load_catalogue

__all__ = ["InstanceType", "load_catalogue"]
