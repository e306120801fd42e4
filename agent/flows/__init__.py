"""Kernel evidence into flows and denials with names: decode, account, join with the snapshot, explain. Pure."""
