"""From a snapshot to the contents of the kernel maps, whole or by what changed. Pure."""
