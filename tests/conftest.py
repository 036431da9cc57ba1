"""What every test shares."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")
