"""Key-value slots: a cache of transformers in which every row keeps its own place and length.

Keys and values of layer `l` lie in two preallocated tensors [slots, heads, length, d_head] at
fixed addresses. A forward pass names a slot, a start and a number of new tokens per row; rows of
one batch may be of any mixture: fresh prompts, the next chunk of a prompt, single tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .errors import LMError


@dataclass(frozen=True)
class LayerShape:
    """Of one layer's cache."""

    key_heads: int
    d_key: int
    value_heads: int
    d_value: int
    layer_type: str = "full_attention"
    """As transformers' configs say it; decides which mask the layer reads."""
    window: int | None = None
    """A query at position p sees keys from p - window + 1 on; None: from 0."""


@dataclass(frozen=True)
class SlotPlan:
    """Where one forward pass writes, and what it reads."""

    slots: tuple[int, ...]
    starts: tuple[int, ...]
    n_new: tuple[int, ...]
    width: int
    """Padded tokens per row, P."""
    fresh: bool
    """Every row starts at 0: the new keys are all there is to see."""
    run: slice | None
    """The slots as a range, if they are one: then reading is a view, not a copy."""
    n_keys: int
    """Keys that a query may see at most, K."""
    slot_index: Tensor
    """The slots as LongTensor [R], on the device."""
    start_index: Tensor
    """The starts as LongTensor [R], on the device."""

    @property
    def aligned(self) -> bool:
        """Whether transformers' own mask fits: a fresh batch, or one token at one position."""
        return self.fresh or (self.width == 1 and len(set(self.starts)) == 1)

    @property
    def past(self) -> int:
        """Positions before the new ones, where the plan is aligned."""
        return self.starts[0]


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [slots, heads, length, d_head] each."""

    def __init__(self, shape: LayerShape, n_slots: int, length: int, like: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys = like.new_zeros(n_slots, shape.key_heads, length, shape.d_key)
        self.values = like.new_zeros(n_slots, shape.value_heads, length, shape.d_value)
        self.is_initialized = True
        self.is_sliding = shape.window is not None
        self.plan: SlotPlan | None = None

    @property
    def stores(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: everything is allocated from the start."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the rows' real tokens in place; return what the queries may see."""
        plan = self.plan
        if plan is None:
            raise LMError("KVSlots can only be used through LanguageModel.forward_slots")
        seen = []
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            _write(store, new, plan)
            if plan.fresh:
                seen.append(new)
            elif plan.run is not None:
                seen.append(store[plan.run, :, : plan.n_keys])
            else:
                seen.append(store[:, :, : plan.n_keys].index_select(0, plan.slot_index))
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        return self.plan.past if self.plan is not None else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.stores[0].shape[2]


def _write(store: Tensor, new: Tensor, plan: SlotPlan) -> None:
    """Put the real tokens of `new` [R, heads, P, d_head] where they belong in the slots."""
    if plan.width == 1:
        store[plan.slot_index, :, plan.start_index] = new[:, :, 0]
        return
    for row, (slot, start, n) in enumerate(zip(plan.slots, plan.starts, plan.n_new, strict=True)):
        store[slot, :, start : start + n] = new[row, :, :n]


class KVSlots(Cache):
    """`n_slots` places for sequences of up to `max_length` positions.

    Attributes:
        lengths: positions filled, per slot.
        slot_layers: keys and values of each layer.
        current: the plan of the forward pass that is running.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        n_slots: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        like = torch.empty(0, dtype=dtype, device=device)
        self.slot_layers = [SlotLayer(s, n_slots, max_length, like) for s in shapes]
        super().__init__(layers=list(self.slot_layers))
        self.n_slots = n_slots
        self.max_length = max_length
        self.shapes = tuple(shapes)
        self.lengths = [0] * n_slots
        self.current: SlotPlan | None = None
        self._device = device

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(s.numel() * s.element_size() for layer in self.slot_layers for s in layer.stores)

    def plan(
        self, slot_ids: Sequence[int], start: Sequence[int], n_new: Sequence[int], width: int
    ) -> SlotPlan:
        """Check a forward pass against the slots and lay out its reads and writes.

        Raises:
            LMError: naming the argument that does not fit.
        """
        if not len(slot_ids) == len(start) == len(n_new):
            raise LMError("slot_ids, start and n_new must have one entry per row", field="slot_ids")
        if len(set(slot_ids)) != len(slot_ids):
            raise LMError(f"two rows share a slot: {list(slot_ids)}", field="slot_ids")
        for row, (slot, first, n) in enumerate(zip(slot_ids, start, n_new, strict=True)):
            if not 0 <= slot < self.n_slots:
                raise LMError(
                    f"slot {slot} does not exist; slots are 0..{self.n_slots - 1}",
                    field=f"slot_ids[{row}]",
                )
            if not 1 <= n <= width:
                raise LMError(f"{n} new tokens in a row of width {width}", field=f"n_new[{row}]")
            if not 0 <= first <= self.lengths[slot]:
                raise LMError(
                    f"start {first} in slot {slot}, which holds {self.lengths[slot]} positions",
                    field=f"start[{row}]",
                )
            if first + n > self.max_length:
                raise LMError(
                    f"{first} + {n} positions do not fit a slot of {self.max_length}",
                    field=f"n_new[{row}]",
                )
        fresh = not any(start)
        consecutive = list(slot_ids) == list(range(slot_ids[0], slot_ids[0] + len(slot_ids)))
        return SlotPlan(
            slots=tuple(slot_ids),
            starts=tuple(start),
            n_new=tuple(n_new),
            width=width,
            fresh=fresh,
            run=slice(slot_ids[0], slot_ids[0] + len(slot_ids)) if consecutive else None,
            n_keys=width if fresh else max(s + n for s, n in zip(start, n_new, strict=True)),
            slot_index=torch.tensor(slot_ids, device=self._device),
            start_index=torch.tensor(start, device=self._device),
        )

    def begin(self, plan: SlotPlan) -> None:
        """Make ready for the forward pass that `plan` describes."""
        for slot, first, n in zip(plan.slots, plan.starts, plan.n_new, strict=True):
            self._forget(slot, first + n)
            self.lengths[slot] = first + n
        self.current = plan
        for layer in self.slot_layers:
            layer.plan = plan

    def end(self) -> None:
        """The forward pass is over."""
        self.current = None
        for layer in self.slot_layers:
            layer.plan = None

    def copy_slot(self, src: int, dst: int, length: int) -> None:
        """Let slot `dst` hold the first `length` positions of slot `src`.

        Several continuations of one prompt, or a baseline twin, so share one prefill.
        """
        for name, slot in (("src", src), ("dst", dst)):
            if not 0 <= slot < self.n_slots:
                raise LMError(
                    f"slot {slot} does not exist; slots are 0..{self.n_slots - 1}", field=name
                )
        if not 0 <= length <= self.lengths[src]:
            raise LMError(
                f"slot {src} holds {self.lengths[src]} positions, not {length}", field="length"
            )
        if src == dst:
            return
        self._forget(dst, length)
        for layer in self.slot_layers:
            for store in layer.stores:
                store[dst, :, :length] = store[src, :, :length]
        self.lengths[dst] = length

    def mask(self, plan: SlotPlan, window: int | None) -> Tensor:
        """Which key a query may see: bool [R, 1, P, K].

        A padded query may see every key, so that no row of the softmax is empty.
        """
        query = torch.tensor(plan.starts)[:, None] + torch.arange(plan.width)
        last = torch.tensor([s + n for s, n in zip(plan.starts, plan.n_new, strict=True)])
        padded = query >= last[:, None]
        query, padded = query[:, None, :, None], padded[:, None, :, None]
        key = torch.arange(plan.n_keys)
        sees = key <= query
        if window is not None:
            sees = sees & (key > query - window)
        return (sees | padded).to(self._device)

    def _forget(self, slot: int, keep: int) -> None:
        """Zero what `slot` holds beyond `keep` positions.

        A masked key still takes part as 0 * value: an infinity that an earlier sequence left
        behind would reach the next one as NaN.
        """
        stale = slice(keep, self.lengths[slot])
        if stale.start < stale.stop:
            for layer in self.slot_layers:
                for store in layer.stores:
                    store[slot, :, stale].zero_()
