"""What runs inside every serving image, and what the pipeline shares with it: contract, preprocessing, runners, server.

The lower floor of Slipway. It imports nothing from `tasks/`, so that training-side evaluation, the parity gate and
production run one implementation.
"""

from serving.telemetry import switch_off

switch_off()
