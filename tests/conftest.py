"""For all tests: what Hypothesis finds counts, not how long it took; programs are compiled once."""

import os

from hypothesis import settings

from lab.node import PROGRAM_CACHE

settings.register_profile("dagwall", deadline=None)
settings.load_profile("dagwall")
os.environ.setdefault("DAGWALL_RUN_PROGRAM_CACHE", str(PROGRAM_CACHE))
