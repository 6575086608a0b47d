"""``hook_resid_mid`` as the residual stream, which in the bridge is only a branch of it.

Between attention and MLP a block goes on with h in two ways: into the MLP, and past it. The bridge
has its hook point on the first way, so that an edit there would not reach the residual stream. Here
what the hooks have changed is added to the block's output as well, which is where the two ways
meet: (h + Δ) + MLP(h + Δ).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from .taps import rejoined, widened

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def join_resid_mid(bridge: TransformerBridge) -> None:
    """Make edits at every ``hook_resid_mid`` reach the residual stream; a second time, nothing."""
    points = bridge.hook_dict
    for layer, block in enumerate(getattr(bridge, "blocks", ())):
        point = points.get(f"blocks.{layer}.hook_resid_mid")
        if point is not None and not isinstance(point, _ResidMid):
            point.__class__ = _ResidMid
            assert isinstance(point, _ResidMid)
            block.original_component.register_forward_hook(partial(_add_change, point))


class _ResidMid(HookPoint):
    """A hook point that knows what its hooks have changed."""

    change: Tensor | None = None
    """New less old activations ``[batch, positions, d_model]``; None where they are the same."""

    def __call__(self, h: Tensor) -> Tensor:
        new: Tensor = super().__call__(h)
        # One that was changed in place is the residual stream's own tensor.
        self.change = None if new is h else widened(new) - h
        return new


def _add_change(point: _ResidMid, _block: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
    change, point.change = point.change, None
    return None if change is None else rejoined(output, change)
