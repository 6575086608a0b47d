"""Stop strings, however the text is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saekit_core.lm.stop_strings import StopScanner


def scan(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    scanner = StopScanner(stops)
    shown = [scanner.push(piece) for piece in pieces]
    return [*shown, scanner.flush()], scanner.found


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["Hello", " world"], [], ["Hello", " world", ""], None),
        (["one\n", "\ntwo"], ["\n\n"], ["one", "", ""], "\n\n"),
        (["one\n", "two"], ["\n\n"], ["one", "\ntwo", ""], None),
        (["one\n"], ["\n\n"], ["one", "\n"], None),
        (["a", "b", "c"], ["abcd"], ["", "", "", "abc"], None),
        (["abcd"], ["abcd", "bc"], ["a", ""], "bc"),
        (["xbc"], ["bc", "xbc"], ["", ""], "xbc"),
        (["aab"], ["ab"], ["a", ""], "ab"),
        (["aa", "b"], ["ab"], ["a", "", ""], "ab"),
        (["stop", "more"], ["stop"], ["", "", ""], "stop"),
    ],
)
def test_text_is_shown_up_to_the_stop_string(
    pieces: list[str], stops: list[str], shown: list[str], found: str | None
) -> None:
    assert scan(pieces, stops) == (shown, found)


short = st.text("ab", max_size=12)


@given(short, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_cutting_the_text_otherwise_changes_nothing(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    borders = [0, *cuts, len(text)]
    pieces = [text[i:j] for i, j in itertools.pairwise(borders)]
    shown, found = scan(pieces, stops)
    by_character, found_by_character = scan(list(text), stops)
    assert ("".join(shown), found) == ("".join(by_character), found_by_character)
    if found is None:
        assert "".join(shown) == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith("".join(shown) + found)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopScanner(["a", ""])
