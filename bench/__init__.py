"""Speed as ratios within one run: never a timed test, never an absolute number to be kept."""
