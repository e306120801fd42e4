"""Kubernetes objects as decoded YAML or JSON in, model values out. Pure; every fault is an InvalidObject."""
