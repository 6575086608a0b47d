"""What a model's activations at hook points are, as an SAE trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saekit_core.lm.bridged import TappedModel
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_trainer.packing import Tokens
from saekit_trainer.special_tokens import left_out


@dataclass(frozen=True)
class HookActivations:
    """Runs a model over contexts and reads activations."""

    model: TappedModel
    hooks: tuple[HookPoint, ...]
    """Where; the model stops at the deepest."""
    read: Callable[[HookPoint, Tensor], Tensor] | None = None
    """What is kept, ``[prompts, context, d]``, of activations ``[prompts, context, *hook.shape]``;
    None: all of them, heads flattened."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """The positions of a context that are read, as the arguments of ``slice``."""
    exclude: bool | Sequence[int] = False
    """Tokens whose activations `rows` leaves out: True for all special ones, or ids."""
    device: torch.device | None = None
    """Where the activations go; None: the model's."""
    autocast: bool = False
    """Whether the model's matrix products are done in bfloat16."""

    def by_hook(self, tokens: Tensor) -> dict[HookPoint, Tensor]:
        """Activations ``[prompts, positions, d]`` at each hook point.

        Args:
            tokens: int64 ``[prompts, context]``.
        """
        positions = slice(*self.seqpos_slice)
        seen: dict[HookPoint, Tensor] = {}

        def tap(hook: HookPoint) -> Tap:
            def keep(h: Tensor) -> None:
                h = h[:, positions]
                kept = h.flatten(2) if self.read is None else self.read(hook, h)
                seen[hook] = kept.to(self.device or kept.device)

            return keep

        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            self.model.forward(tokens, taps={hook: tap(hook) for hook in self.hooks})
        return seen

    def of(self, tokens: Tensor) -> Tensor:
        """Activations ``[prompts, positions, d_in]``, those of several hook points side by side.

        Args:
            tokens: int64 ``[prompts, context]``.
        """
        seen = self.by_hook(tokens)
        if len(self.hooks) == 1:
            return seen[self.hooks[0]]
        return torch.cat([seen[hook] for hook in self.hooks], dim=2)

    def rows(self, tokens: Tokens) -> Tensor:
        """Activations ``[rows, d_in]`` of the tokens that are not left out.

        Args:
            tokens: int64 ``[prompts, context]``, on the CPU.
        """
        given = torch.from_numpy(tokens)
        rows = self.of(given.to(self.model.device)).flatten(0, 1)
        if not self.exclude:
            return rows
        read = given[:, slice(*self.seqpos_slice)].flatten()
        kept = ~left_out(self.model.tokenizer, read, self.exclude)
        return rows[kept.to(rows.device)]
