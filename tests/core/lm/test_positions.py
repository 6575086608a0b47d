"""Position selectors: a table of what each covers, and properties over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saekit_core.lm.positions import (
    ALL_POSITIONS,
    EVERY_POSITION,
    PositionError,
    PositionSelector,
    Region,
    resolve,
)
from saekit_core.lm.tokenizer import Tokenized

S = PositionSelector


def tokens(
    special: str, *, bos: bool = True, messages: str = "", roles: tuple[str, ...] = ()
) -> Tokenized:
    """A prompt; "s" in `special` marks special tokens, digits in `messages` their message."""
    n = len(special)
    index = np.array([-1 if m == "-" else int(m) for m in messages], np.int32) if messages else None
    return Tokenized(
        ids=np.arange(n),
        byte_offsets=np.zeros((n, 2), np.uint32),
        special=np.array([mark == "s" for mark in special], np.bool_),
        has_bos=bos,
        message_index=index,
        roles=roles or None,
    )


TEXT = tokens("s.....")
NO_BOS = tokens("......", bos=False)
CHAT = tokens("ss..ss.s", messages="-000111-", roles=("user", "assistant"))


# Positions 0-5 (0-7 for the chat) are the prompt's; three more are generated.
@pytest.mark.parametrize(
    ("prompt", "selector", "covered"),
    [
        (TEXT, S(Region.ALL), "12345678"),
        (TEXT, S(Region.ALL, include_bos=True), "012345678"),
        (NO_BOS, S(Region.ALL), "012345678"),
        (TEXT, S(Region.PROMPT), "12345"),
        (TEXT, S(Region.GENERATED), "678"),
        (TEXT, S(Region.LAST_PROMPT), "5"),
        (TEXT, S(last_n=2), "45"),
        (TEXT, S(last_n=99), "12345"),
        (TEXT, S(last_n=99, include_bos=True), "012345"),
        (TEXT, S(ranges=((1, 3),)), "12"),
        (TEXT, S(ranges=((0, 2), (4, 5))), "014"),
        (TEXT, S(ranges=((-2, None),)), "45678"),
        (TEXT, S(ranges=((-3, -1),)), "34"),
        (TEXT, S(ranges=((4, 8),)), "4567"),
        (TEXT, S(ranges=((7, None),)), "78"),
        (TEXT, S(ranges=((2, -2),)), "23"),
        (TEXT, S(include_special=False), "12345678"),
        (TEXT, S(Region.ALL, include_special=False, include_bos=True), "012345678"),
        (TEXT, S(ranges=((0, 2),), include_special=False), "1"),
        (CHAT, S(Region.PROMPT), "1234567"),
        (CHAT, S(Region.PROMPT, include_special=False), "236"),
        (CHAT, S(roles=("user",)), "123"),
        (CHAT, S(Region.ALL, roles=("assistant",)), "45689:"),
        (CHAT, S(Region.PROMPT, roles=("assistant",)), "456"),
        (CHAT, S(Region.LAST_PROMPT, roles=("user",)), "3"),
        (CHAT, S(last_n=2, roles=("user", "assistant"), include_special=False), "36"),
        (CHAT, S(roles=("system",)), ""),
        (CHAT, S(roles=("user",), include_bos=True), "0123"),
    ],
)
def test_selector_covers_exactly(
    prompt: Tokenized, selector: PositionSelector, covered: str
) -> None:
    positions = resolve(selector, prompt, default=ALL_POSITIONS, n_generated=3)
    wanted = {ord(character) - ord("0") for character in covered}
    total = len(prompt) + 3
    assert {p for p in range(total) if positions.covers(p)} == wanted
    assert set(np.flatnonzero(positions.mask(0, total))) == wanted


def test_saying_nothing_means_the_default() -> None:
    assert resolve(None, TEXT, default=EVERY_POSITION).covers(0)
    assert not resolve(None, TEXT, default=ALL_POSITIONS).covers(0)
    generated = resolve(S(include_special=False), TEXT, default=S(Region.GENERATED), n_generated=2)
    assert [generated.covers(p) for p in range(5, 8)] == [False, True, True]


def test_special_tokens_are_left_out_among_generated_ones_too() -> None:
    positions = resolve(S(include_special=False), TEXT, default=ALL_POSITIONS, n_generated=3)
    special = np.array([False, False, False, True, False])
    assert positions.mask(4, 9, special).tolist() == [True, True, True, False, True]
    assert not positions.covers(7, special=True)
    with_special = resolve(None, TEXT, default=ALL_POSITIONS, n_generated=3)
    assert with_special.mask(4, 9, special).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: S(Region.ALL, last_n=2), "last_n"),
        (lambda: S(last_n=2, ranges=((0, 1),)), "ranges"),
        (lambda: S(last_n=0), "last_n"),
        (lambda: S(ranges=((0, 1), (3, 3))), "ranges[1]"),
        (lambda: S(ranges=((-1, -2),)), "ranges[0]"),
    ],
)
def test_impossible_selector_is_refused_by_field(make: object, field: str) -> None:
    assert callable(make)
    with pytest.raises(PositionError) as error:
        make()
    assert error.value.field == field


@pytest.mark.parametrize(
    ("prompt", "selector", "field"),
    [
        (TEXT, S(ranges=((0, 2), (3, 7))), "ranges[1]"),
        (TEXT, S(ranges=((6, None),)), "ranges[0]"),
        (TEXT, S(ranges=((-7, None),)), "ranges[0]"),
        (TEXT, S(ranges=((0, -6),)), "ranges[0]"),
        (TEXT, S(ranges=((4, -3),)), "ranges[0]"),
        (TEXT, S(Region.GENERATED), "region"),
        (TEXT, S(roles=("user",)), "roles"),
        (CHAT, S(roles=("user", "asistant")), "roles[1]"),
    ],
)
def test_selector_that_does_not_fit_is_refused_by_field(
    prompt: Tokenized, selector: PositionSelector, field: str
) -> None:
    with pytest.raises(PositionError) as error:
        resolve(selector, prompt, default=ALL_POSITIONS)
    assert error.value.field == field


@st.composite
def prompts(draw: st.DrawFn) -> Tokenized:
    n = draw(st.integers(1, 12))
    special = "".join(draw(st.lists(st.sampled_from("s."), min_size=n, max_size=n)))
    return tokens(special, bos=draw(st.booleans()))


selectors = st.builds(
    lambda where, include_bos, include_special: PositionSelector(
        **where, include_bos=include_bos, include_special=include_special
    ),
    st.one_of(
        st.fixed_dictionaries({"region": st.sampled_from(Region)}),
        st.fixed_dictionaries({"last_n": st.integers(1, 14)}),
        st.fixed_dictionaries(
            {"ranges": st.lists(st.tuples(st.integers(-12, 14), st.none()), min_size=1).map(tuple)}
        ),
    ),
    st.booleans(),
    st.booleans(),
)


@given(prompts(), selectors, st.integers(1, 5), st.data())
def test_any_window_of_the_mask_agrees_with_covers(
    prompt: Tokenized, selector: PositionSelector, n_generated: int, data: st.DataObject
) -> None:
    try:
        positions = resolve(selector, prompt, default=ALL_POSITIONS, n_generated=n_generated)
    except PositionError:
        assert selector.ranges  # regions and counts always fit
        return
    total = len(prompt) + n_generated
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    mask = positions.mask(start, stop)
    assert mask.tolist() == [positions.covers(position) for position in range(start, stop)]


@given(prompts(), selectors)
def test_a_bos_is_covered_only_when_asked_for(
    prompt: Tokenized, selector: PositionSelector
) -> None:
    try:
        positions = resolve(selector, prompt, default=ALL_POSITIONS, n_generated=2)
    except PositionError:
        return
    reached = any(start + (len(prompt) if start < 0 else 0) == 0 for start, _ in selector.ranges)
    if prompt.has_bos and positions.covers(0):
        assert selector.include_bos or reached
    if not selector.include_special:
        marked = np.flatnonzero(positions.prompt & prompt.special)
        assert set(marked) <= ({0} if prompt.has_bos and selector.include_bos else set())
