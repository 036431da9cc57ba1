"""Parity: does the export answer as the model that was trained does? Artifact + Export → ParityReport."""
