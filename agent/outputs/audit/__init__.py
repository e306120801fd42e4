"""The audit log: JSON lines of which none can be changed, taken out or put in without its being found."""
