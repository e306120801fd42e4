"""Scratch nodes for tests, demo and bench: real cgroups, network namespaces and servers, gone when they are done."""
