"""Answers that are kept: each is worked out once, None too, and there are never more than so many."""

from __future__ import annotations

import pytest

from agent.memo import Memo


def test_an_answer_is_worked_out_once() -> None:
    memo, asked = Memo[str, str | None](10), []

    def answer(key: str) -> str | None:
        asked.append(key)
        return None if key == "nobody" else key.upper()

    for key, expected in (("a", "A"), ("nobody", None), ("a", "A"), ("nobody", None)):
        assert memo.get(key, lambda key=key: answer(key)) == expected  # type: ignore[misc]
    assert asked == ["a", "nobody"]


def test_there_are_never_more_than_so_many() -> None:
    memo = Memo[int, int](3)
    sizes = []
    for key in range(7):
        assert memo.get(key, lambda key=key: key * 2) == key * 2  # type: ignore[misc]
        sizes.append(len(memo))
    assert sizes == [1, 2, 3, 1, 2, 3, 1]


def test_an_answer_that_fails_is_not_kept() -> None:
    memo = Memo[int, int](3)
    with pytest.raises(ZeroDivisionError):
        memo.get(1, lambda: 1 // 0)
    assert memo.get(1, lambda: 5) == 5
