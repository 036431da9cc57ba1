"""The parity gate against the fault corpus, and what the stage costs: `make bench-parity` (see `__main__`)."""

import os

# Whatever imports a part of this, in whichever process, has said so before the frameworks are imported.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
