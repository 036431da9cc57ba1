"""Slipway's library: the stages in pipeline order, each a plain function from contract to contract."""
