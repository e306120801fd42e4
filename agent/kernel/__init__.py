"""The kernel as a shell: bpf(2), pins, maps, the ring buffer, the loader. Only `loader` imports bcc."""
