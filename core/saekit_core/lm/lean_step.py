"""A few new tokens per row, by a flat sequence of operations on the model's own parameters.

At one token per row, or at a short prompt, a forward pass through the Hugging Face modules is
mostly Python: calls, decorators, look-ups in configs. For decoders of a well-known make the same
arithmetic is done here directly. The modules stay the reference: a family is used only where
`lean_trial` found the same logits and activations, and anything out of the ordinary (taps
elsewhere, hooks that others have set, long prompts) goes through the modules.

Rows of P tokens are worked on as R·P rows of one, in all but attention.

Towards a captured CUDA graph: parameters, slots and prepared interventions lie at fixed addresses,
places in the slots are data (`SlotPlan.slot_index`, `start_index`), and nothing here waits for the
device. What remains is to read all of a slot's keys under a mask instead of the first `n_keys`, to
keep token ids, indices and mask in buffers that each replay fills, and to have one graph per number
of rows and make-up of taps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_globals
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .hook_points import HookPoint, ModuleSite, Tap
from .kv_slots import KVSlots, LayerShape, SlotLayer, SlotPlan
from .taps import apply_tap

RESID_PRE, ATTN_OUT, RESID_MID, MLP_OUT, RESID_POST = range(5)
"""Places in a block at which taps are served, in their order."""

MOST_TOKENS = 512
"""Padded tokens of a step up to which it is one for here; beyond, products take all the time."""

Place = tuple[int, int]
"""Block, and one of the above."""


class Projection:
    """A linear map of Hugging Face's making, applied to rows `[R, d]`.

    The parameters are read from the module each time, so that new weights take effect.

    Raises:
        TypeError: a module of another kind, such as a quantised one.
    """

    def __init__(self, module: nn.Module) -> None:
        if type(module) not in (nn.Linear, Conv1D):
            raise TypeError(f"{type(module).__name__} is not a plain linear map")
        self._own = module._parameters
        self._turned = type(module) is nn.Linear

    def __call__(self, x: Tensor) -> Tensor:
        weight: Any = self._own["weight"]
        bias: Any = self._own["bias"]
        if self._turned:
            return functional.linear(x, weight, bias)
        return torch.addmm(bias, x, weight)  # a Conv1D always has one

    def onto(self, h: Tensor, x: Tensor) -> Tensor:
        """h + the map of x, in one operation where there is no bias."""
        if self._own["bias"] is not None:
            return h + self(x)
        weight: Any = self._own["weight"]
        return torch.addmm(h, x, weight.t() if self._turned else weight)


@dataclass(frozen=True, eq=False)
class StepInputs:
    """What every block of one step reads."""

    plan: SlotPlan
    mask: Tensor | None
    """What is added to scores, or whether a key is seen, `[R, 1, P, K]`. None: of one token per row
    all see all; of several each sees the new ones up to itself, which is all there is."""
    rotary: tuple[Tensor, Tensor] | None
    """Of rotary models: cosines and sines of the positions, `[R·P, 1, 2, d_head / 2]`."""

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """What queries `[R, heads, P, d_head]` of several tokens per row make of the values."""
        return functional.scaled_dot_product_attention(
            q,
            keys,
            values,
            attn_mask=self.mask,
            is_causal=self.mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != keys.shape[1],
        )


@dataclass(frozen=True, eq=False)
class LeanBlock:
    """h -> h + out(mix(h)) -> that + down(inner(that))."""

    mix: Callable[[Tensor, StepInputs, SlotLayer], Tensor]
    """Norm and attention of `[R·P, d]`, up to its output projection."""
    out: Projection
    inner: Callable[[Tensor], Tensor]
    """Norm and first half of the MLP."""
    down: Projection
    paths: Mapping[tuple[str, str], int]
    """(module path, side) -> the place that this is."""


class LeanFamily(Protocol):
    """A model taken apart."""

    blocks: Sequence[LeanBlock]

    def prepare(self, length: int) -> None:
        """Make ready for positions up to `length`."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`[R·P]`, `[R·P]` to `[R·P, d]`."""

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """As `StepInputs.rotary`."""

    def unembed(self, h: Tensor) -> Tensor:
        """Final norm and output embedding, `[n, d]` to `[n, d_vocab]`."""


class LeanStep:
    """Steps of one model.

    Raises:
        TypeError: a module whose `forward` was replaced, as offloading does.
    """

    def __init__(
        self, hf: PreTrainedModel, family: LeanFamily, sites: Mapping[str, ModuleSite]
    ) -> None:
        self._family = family
        self._places = _places(family, sites)
        modules = list(hf.modules())
        if changed := [m for m in modules if "forward" in vars(m)]:
            raise TypeError(f"{type(changed[0]).__name__} has a forward of its own")
        self._foreign = [
            *(m._forward_hooks for m in modules),
            *(m._forward_pre_hooks for m in modules),
            module_globals._global_forward_hooks,
            module_globals._global_forward_pre_hooks,
        ]

    @property
    def places(self) -> Mapping[str, Place]:
        """Canonical names of the hook points at which taps are served."""
        return self._places

    def serves(self, slots: KVSlots, taps: Mapping[HookPoint, Tap]) -> bool:
        """Whether the step that `slots` has begun, with these taps, is one for here."""
        plan = slots.current
        return (
            plan is not None
            and len(plan.slots) * plan.width <= MOST_TOKENS
            and all(within_windows(slots.shapes, slots.max_length))
            and all(point.canonical in self._places for point in taps)
            and not any(self._foreign)
        )

    def run(
        self,
        slots: KVSlots,
        tokens: Tensor,
        taps: Mapping[HookPoint, Tap],
        logits_at: Tensor | None,
    ) -> Tensor | None:
        """Run the tokens of each row of the plan that `slots` has begun.

        Args:
            tokens: LongTensor `[R, P]`, on the device.
            logits_at: LongTensor `[n]` of flat indices row * P + position, on the device.

        Returns:
            float32 `[n, d_vocab]`, or None without `logits_at`.
        """
        plan = slots.current
        assert plan is not None
        family = self._family
        family.prepare(slots.max_length)
        at = {self._places[point.canonical]: (point, tap) for point, tap in taps.items()}
        positions = plan.start_index
        if plan.width > 1:
            ahead = torch.arange(plan.width, device=positions.device)
            # Padding may run past the last position that there is.
            positions = (positions[:, None] + ahead).clamp_(max=slots.max_length - 1).flatten()
        h = family.embed(tokens.flatten(), positions)
        inputs = StepInputs(plan, _mask(slots, plan, h), family.rotary(positions))
        width = plan.width
        for index, (block, layer) in enumerate(zip(family.blocks, slots.slot_layers, strict=True)):
            h = _tapped(at.get((index, RESID_PRE)), h, width)
            mixed = block.mix(h, inputs, layer)
            h = _added(at.get((index, ATTN_OUT)), h, block.out, mixed, width)
            h = _tapped(at.get((index, RESID_MID)), h, width)
            h = _added(at.get((index, MLP_OUT)), h, block.down, block.inner(h), width)
            h = _tapped(at.get((index, RESID_POST)), h, width)
        if logits_at is None:
            return None
        return family.unembed(h.index_select(0, logits_at)).float()


def within_windows(shapes: Sequence[LayerShape], length: int) -> list[bool]:
    """Of each layer whether its queries see all of `length` positions."""
    return [shape.window is None or length <= shape.window for shape in shapes]


def _places(family: LeanFamily, sites: Mapping[str, ModuleSite]) -> dict[str, Place]:
    known = {
        path: (index, place)
        for index, block in enumerate(family.blocks)
        for path, place in block.paths.items()
    }
    return {
        canonical: known[site.path, site.side]
        for canonical, site in sites.items()
        if site.columns is None and (site.path, site.side) in known
    }


def _mask(slots: KVSlots, plan: SlotPlan, h: Tensor) -> Tensor | None:
    if plan.aligned:
        return None
    if plan.width > 1:
        return slots.mask(plan, window=None)
    key = torch.arange(plan.n_keys, device=h.device)
    unseen = key > plan.start_index[:, None]
    mask = h.new_zeros(unseen.shape).masked_fill_(unseen, float("-inf"))
    return mask[:, None, None]


Tapped = tuple[HookPoint, Tap] | None


def _tapped(tapped: Tapped, h: Tensor, width: int) -> Tensor:
    """`[R·P, d]` as a tap leaves it."""
    if tapped is None:
        return h
    point, tap = tapped
    new = apply_tap(tap, h.view(-1, width, *h.shape[1:]), point)
    return h if new is None else new.flatten(0, 1)


def _added(tapped: Tapped, h: Tensor, project: Projection, x: Tensor, width: int) -> Tensor:
    """h + the map of x as a tap leaves it."""
    return project.onto(h, x) if tapped is None else h + _tapped(tapped, project(x), width)
