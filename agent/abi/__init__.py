"""bpf/types.h as tables. A C compiler judges the two (tests/layout)."""
