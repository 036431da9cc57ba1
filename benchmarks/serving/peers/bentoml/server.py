"""Starts BentoML on the service beside this file. Environment: BENCH_PORT."""

import os
import sys
from pathlib import Path

from bentoml_cli.cli import cli

service = str(Path(__file__).parent)
sys.argv = ["bentoml", "serve", "service:Model", "--working-dir", service, "--host", "127.0.0.1"]
sys.argv += ["--port", os.environ["BENCH_PORT"]]
cli()
