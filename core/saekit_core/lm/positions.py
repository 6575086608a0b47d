"""Which positions of a sequence something applies to.

One `PositionSelector` serves encoding, runs with spliced SAEs and steering. Position 0 is the first
token id of the sequence, a BOS included. A selector is data without a sequence; `resolve` lays it
over one `Tokenized` prompt and the positions that generation may add behind it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saekit_core.lm.errors import LMError

if TYPE_CHECKING:
    from saekit_core.lm.tokenizer import Tokenized

GENERATED_ROLES = frozenset({"assistant", "model"})
"""Roles that generated positions of a chat belong to; templates call the model by either name."""

KNOWN_ROLES = GENERATED_ROLES | {"system", "developer", "user", "tool"}
"""Roles that a selector may name although a chat has no message of theirs (yet)."""


class PositionError(LMError):
    """A position selector that cannot be, or that does not fit its sequence."""


class Region(enum.Enum):
    """A named part of a sequence."""

    ALL = "all"
    PROMPT = "prompt"
    GENERATED = "generated"
    LAST_PROMPT = "last_prompt"


@dataclass(frozen=True)
class PositionSelector:
    """Positions by region, count or explicit range, narrowed by role and kind of token.

    At most one of `region`, `last_n` and `ranges` says where to look; without any, the default of
    whoever resolves the selector does. `roles` and `include_special` narrow it, and LAST_PROMPT
    and `last_n` count among what they leave.

    A BOS at position 0 is an attention sink: edits there break the text, and pooling over it
    returns little but its own features. It is left out unless `include_bos` is set (which wins
    over `roles` and `include_special`) or an explicit range covers position 0.
    """

    region: Region | None = None
    last_n: int | None = None
    """The last n positions of the prompt, or all of them when it has fewer. At least 1."""
    ranges: tuple[tuple[int, int | None], ...] = ()
    """Half-open `(start, stop)`; negative values count from the prompt's end, and a stop of None
    is open, generated positions included."""
    roles: tuple[str, ...] = ()
    """Only tokens of these chat roles; generated positions count as "assistant" and "model"."""
    include_bos: bool = False
    include_special: bool = True
    """False leaves out every special token, generated ones too."""

    def __post_init__(self) -> None:
        where = {
            "region": self.region is not None,
            "last_n": self.last_n is not None,
            "ranges": bool(self.ranges),
        }
        named = [name for name, given in where.items() if given]
        if len(named) > 1:
            raise PositionError(
                f"{' and '.join(named)} are both given; a selector takes one of them",
                field=named[1],
            )
        if self.last_n is not None and self.last_n < 1:
            raise PositionError(f"last_n is {self.last_n}; it must be at least 1", field="last_n")
        for index, (start, stop) in enumerate(self.ranges):
            if stop is not None and (start < 0) == (stop < 0) and start >= stop:
                raise PositionError(
                    f"the range {start}..{stop} is empty; its start must lie before its stop",
                    field=f"ranges[{index}]",
                )


ALL_POSITIONS = PositionSelector(Region.ALL)
"""Every position but a BOS: the default for edits and conditions."""

EVERY_POSITION = PositionSelector(Region.ALL, include_bos=True)
"""Every position, a BOS too: the default for splices and for encoding."""

GENERATED_POSITIONS = PositionSelector(Region.GENERATED)
"""What the model itself wrote: the default for conditions that stop a generation."""


@dataclass(frozen=True, eq=False)
class ResolvedPositions:
    """A selector laid over one prompt and what may be generated behind it."""

    prompt: NDArray[np.bool_]
    """`[n_prompt]`, whether each position of the prompt is covered."""
    generated: tuple[tuple[int, int | None], ...]
    """Half-open ranges of absolute positions behind the prompt; a stop of None is open."""
    generated_special: bool
    """Whether special tokens among the generated ones are covered."""

    @property
    def open_from(self) -> int | None:
        """The position behind the prompt from which all are covered, but for special tokens."""
        starts = [start for start, stop in self.generated if stop is None]
        return min(starts, default=None)

    def covers(self, position: int, *, special: bool = False) -> bool:
        """Whether `position` is covered; `special` says whether its token is a special one."""
        if position < len(self.prompt):
            return bool(self.prompt[position])
        if special and not self.generated_special:
            return False
        for start, stop in self.generated:
            if start <= position and (stop is None or position < stop):
                return True
        return False

    def mask(
        self, start: int, stop: int, special: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """`[stop - start]`: which of the positions `start..stop` are covered.

        `special` marks the special tokens among these positions; those of the prompt are known
        already and not read from it.
        """
        n_prompt = len(self.prompt)
        covered = np.zeros(stop - start, np.bool_)
        in_prompt = self.prompt[start:stop]
        covered[: len(in_prompt)] = in_prompt
        for first, last in self.generated:
            low = max(first, start) - start
            high = (stop if last is None else min(last, stop)) - start
            covered[low : max(high, low)] = True
        if special is not None and not self.generated_special:
            behind = max(n_prompt - start, 0)
            covered[behind:] &= ~special[behind:]
        return covered


def resolve(
    selector: PositionSelector | None,
    tokenized: Tokenized,
    *,
    default: PositionSelector,
    n_generated: int = 0,
) -> ResolvedPositions:
    """Lay `selector` over a prompt.

    Args:
        selector: what was asked for; None is `default`, and one that names neither region, count
            nor range looks where `default` does.
        tokenized: the prompt.
        default: the meaning of saying nothing.
        n_generated: how many positions generation may add; 0 where nothing is generated.

    Raises:
        PositionError: a range that does not fit the sequence, roles without a chat or unknown to
            it, generated positions where nothing is generated.
    """
    selector = default if selector is None else selector
    eligible, generated_eligible = _eligible(selector, tokenized)
    where = selector
    if selector.region is None and selector.last_n is None and not selector.ranges:
        where = default

    n_prompt = len(tokenized.ids)
    prompt = np.zeros(n_prompt, np.bool_)
    generated: list[tuple[int, int | None]] = []
    explicit = bool(where.ranges)
    if explicit:
        for index, (start, stop) in enumerate(where.ranges):
            first, last = _absolute(start, stop, n_prompt, n_generated, f"ranges[{index}]")
            prompt[first:last] = True
            if last is None or last > n_prompt:
                generated.append((max(first, n_prompt), last))
    elif where.region in (Region.ALL, Region.PROMPT) or _counts(where):
        prompt[:] = True
    if where.region in (Region.ALL, Region.GENERATED):
        generated.append((n_prompt, None))
    if where.region is Region.GENERATED and n_generated == 0:
        raise PositionError(
            "region is GENERATED, but nothing is generated here; choose ALL, PROMPT, LAST_PROMPT,"
            " last_n or ranges",
            field="region",
        )

    bos = tokenized.has_bos and n_prompt > 0 and bool(prompt[0])
    prompt &= eligible
    if tokenized.has_bos and n_prompt > 0:
        prompt[0] = bos and (selector.include_bos or (explicit and bool(eligible[0])))
    if _counts(where):
        count = 1 if where.last_n is None else where.last_n
        prompt[np.flatnonzero(prompt)[:-count]] = False
    return ResolvedPositions(
        prompt=prompt,
        generated=tuple(generated) if generated_eligible and n_generated else (),
        generated_special=selector.include_special,
    )


def _counts(where: PositionSelector) -> bool:
    return where.last_n is not None or where.region is Region.LAST_PROMPT


def _eligible(selector: PositionSelector, tokenized: Tokenized) -> tuple[NDArray[np.bool_], bool]:
    """What `roles` and `include_special` leave: a mask of the prompt, and of what follows it."""
    eligible = np.ones(len(tokenized.ids), np.bool_)
    generated = True
    if not selector.include_special:
        eligible &= ~tokenized.special
    if selector.roles:
        if tokenized.roles is None or tokenized.message_index is None:
            raise PositionError(
                f"roles are {list(selector.roles)}, but the input is not a chat", field="roles"
            )
        known = KNOWN_ROLES | set(tokenized.roles)
        for index, role in enumerate(selector.roles):
            if role not in known:
                raise PositionError(
                    f"no role is called {role!r} here; expected one of {sorted(known)}",
                    field=f"roles[{index}]",
                )
        wanted = [index for index, role in enumerate(tokenized.roles) if role in selector.roles]
        eligible &= np.isin(tokenized.message_index, wanted)
        generated = not GENERATED_ROLES.isdisjoint(selector.roles)
    return eligible, generated


def _absolute(
    start: int, stop: int | None, n_prompt: int, n_generated: int, field: str
) -> tuple[int, int | None]:
    first = start + n_prompt if start < 0 else start
    last = stop + n_prompt if stop is not None and stop < 0 else stop
    end = n_prompt + n_generated
    shown = f"the range {start}..{'' if stop is None else stop}"
    if first < 0 or first >= end or (last is not None and (last < 0 or last > end)):
        raise PositionError(
            f"{shown} reaches outside of the sequence of {n_prompt} prompt tokens"
            + (f" and up to {n_generated} generated ones" if n_generated else ""),
            field=field,
        )
    if last is not None and first >= last:
        raise PositionError(f"{shown} is empty for a prompt of {n_prompt} tokens", field=field)
    return first, last
