"""For all tests: what Hypothesis finds counts, not how long the machine took to find it."""

from hypothesis import settings

settings.register_profile("dagwall", deadline=None)
settings.load_profile("dagwall")
