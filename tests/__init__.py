"""Tests run in two processes (pytest-xdist, see pyproject.toml): one thread each, on two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")     # read once, when torch is imported
