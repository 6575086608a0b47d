"""Hook points: the names by which TransformerLens calls a model's activations."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .errors import UnknownHookPointError

Tap = Callable[[Tensor], Tensor | None]
"""Gets the activations at a hook point, returns a replacement or None (read only).

It must not change its argument in place: the model goes on with it.
"""


@dataclass(frozen=True)
class HookPoint:
    """One place in a model's forward pass. Two that lead to the same activations are equal."""

    name: str = field(compare=False)
    """As asked for, in TransformerLens' words: ``blocks.2.hook_resid_pre``."""
    canonical: str
    """The name that all aliases share: ``blocks.2.hook_in``."""
    depth: int = field(compare=False)
    """Rank in the order of execution; the deepest hook point has the largest."""
    shape: tuple[int, ...] = field(compare=False)
    """Activation shape after [rows, positions]: ``(d,)`` or ``(heads, d_head)``. Empty where the
    activations are not per position (attention scores and patterns, [rows, heads, query, key])."""

    @property
    def d(self) -> int:
        """Numbers per position; 0 where the activations are not per position."""
        return math.prod(self.shape) if self.shape else 0


@dataclass(frozen=True)
class ModuleSite:
    """Where a plain Hugging Face module shows the activations of a hook point."""

    path: str
    """Of the module, from the model's root."""
    side: Literal["in", "out"]
    columns: slice | None = None
    """The part of the last axis, where one module computes several (a fused QKV projection)."""
    rejoins: str | None = None
    """Path of the block past whose inside the same activations go on, to be added to its output:
    so it is with ``hook_resid_mid``, which the module sees as the input of its norm alone."""


class HookTable:
    """All hook points of one model.

    Args:
        points: canonical name -> hook point.
        aliases: every name, canonical ones included -> canonical name.
        sites: canonical name -> where the plain model shows it; a hook point that is not in it
            lies inside a module and needs the bridge.
        silent: names that the bridge knows but that do not fire for this model.
    """

    def __init__(
        self,
        points: Mapping[str, HookPoint],
        aliases: Mapping[str, str],
        sites: Mapping[str, ModuleSite],
        silent: Iterable[str] = (),
    ) -> None:
        self.points = dict(points)
        self.aliases = dict(aliases)
        self.sites = dict(sites)
        self.silent = frozenset(silent)

    def names(self) -> list[str]:
        """Every usable name, aliases included, in the order of execution."""
        return sorted(self.aliases, key=lambda n: (self.points[self.aliases[n]].depth, n))

    def resolve(self, name: str) -> HookPoint:
        """The hook point called `name`.

        Raises:
            UnknownHookPointError: with the nearest names that exist.
        """
        canonical = self.aliases.get(name)
        if canonical is None:
            why = "never fires in this model" if name in self.silent else "does not exist"
            raise unknown_hook_point(name, self.names(), why)
        point = self.points[canonical]
        return HookPoint(name=name, canonical=canonical, depth=point.depth, shape=point.shape)


def unknown_hook_point(
    name: str, names: Sequence[str], why: str = "does not exist"
) -> UnknownHookPointError:
    """The error for a name that is none of `names`, with the nearest of them."""
    near = tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.6))
    example = next((n for n in names if n.endswith("hook_resid_pre")), names[0])
    hint = f"near: {', '.join(near)}" if near else f"for example {example}"
    return UnknownHookPointError(f"hook point {name!r} {why}; {hint}", near=near)
