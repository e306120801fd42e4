"""Dagwall on other kernels: booted by QEMU on this machine's own files, with the kernel tests run inside."""
