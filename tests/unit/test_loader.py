"""A bcc that cannot do it is one clear error, before anything is touched. The process is real, the bcc is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import LoadError
from agent.kernel import loader
from agent.kernel.loader import Request

OLD = """
__version__ = "0.18.0"
class BPF:
    def load_func(self, func_name, prog_type, device=None): ...
"""


def refusal(bcc: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the loader says with this text as module `bcc`."""
    (folder / "bcc.py").write_text(bcc)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(LoadError) as caught:
        loader.load(Request(root=str(folder / "pins"), generation=1, features={"set_retval": True}))
    assert not (folder / "pins").exists()
    return str(caught.value)


def test_an_old_bcc_is_named_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is that of Debian 11's and Ubuntu 22.04's."""
    assert refusal(OLD, tmp_path, monkeypatch) == (
        "bcc 0.18.0 is too old: its load_func() takes no attach_type, without which connect hooks do not load; "
        "needed is 0.25 or newer: Debian 12's, Ubuntu 24.04's"
    )


def test_the_other_thing_of_that_name_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal("", tmp_path, monkeypatch)
    assert "bcc.py is not the BPF Compiler Collection" in said
    assert "apt-get install python3-bpfcc" in said


def test_no_bcc_and_no_library_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal("raise ImportError('no')", tmp_path, monkeypatch)
    assert said == "bcc is not installed for this Python: apt-get install python3-bpfcc"
    said = refusal("raise OSError('libbcc.so.0: no such file')", tmp_path, monkeypatch)
    assert said == "bcc's library is missing: libbcc.so.0: no such file: apt-get install libbpfcc"


def test_what_the_verifier_says_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal("import sys; sys.exit('line 1\\nline 2')", tmp_path, monkeypatch)
    assert said == "the programs did not load:\nline 1\nline 2"
