"""Many entries at once, with and without the kernel's batches: LPM tries have none before 5.13."""

from __future__ import annotations

import pytest

from agent.abi import structs
from tests.kernel.rig import Rig

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", ["peers", "endpoints"])
def test_what_is_written_at_once_is_all_there(rig: Rig, name: str) -> None:
    """A kernel without batches for a map leaves their count as it was: none were taken, not all."""
    keys = {
        "peers": [structs.PREFIX.pack(length=128, address=b"\x20\x01" + bytes(13) + bytes([n])) for n in range(20)],
        "endpoints": [structs.U64.pack(value=1 << 40 | n) for n in range(20)],
    }[name]
    table = rig.maps[name]
    value = bytes(range(1, table.spec.value.size + 1))
    for _ in range(2):  # the second time it knows
        table.put_all([(key, value) for key in keys])
        assert {key: table.get(key) for key in keys} == dict.fromkeys(keys, value)
        table.delete_all(keys)
        assert not {key for key, _ in table.items()} & set(keys)
