"""A TransformerBridge of somebody else's, run as a `LanguageModel` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .bridging import bridge_root
from .errors import LMError
from .forward_pass import run_pass
from .hook_points import HookPoint, HookTable, Tap
from .hook_probe import probe_bridge
from .model import LanguageModel, embedding_rows, max_positions
from .taps import tapped_bridge
from .tokenizer import LMTokenizer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class TappedModel(Protocol):
    """What reading and replacing activations takes: `LanguageModel` has it, and `BridgedModel`."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> LMTokenizer: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def d_vocab(self) -> int: ...
    @property
    def max_context(self) -> int: ...
    def hook_point(self, name: str) -> HookPoint: ...
    def forward(
        self, tokens: Tensor, *, taps: Mapping[HookPoint, Tap], logits_at: Tensor | None = None
    ) -> Tensor | None: ...


def as_tapped(model: LanguageModel | BridgedModel | TransformerBridge) -> TappedModel:
    """`model` itself, or a view of the bridge that it is (a HookedSAETransformer is one).

    Raises:
        LMError: it is neither, or a bridge without a fast tokenizer.
    """
    return model if isinstance(model, LanguageModel | BridgedModel) else BridgedModel(model)


class BridgedModel:
    """A view of a bridge, with its weights as they are, processed or not.

    Every pass goes through the bridge, and whatever hooks it has stay in force.

    Attributes:
        bridge: the bridge.
        tokenizer: its tokenizer, under saekit's rules.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        if not isinstance(bridge, TransformerBridge):
            raise LMError(
                f"model: a {type(bridge).__name__}; expected a LanguageModel or a TransformerBridge"
                " (HookedSAETransformer)",
                field="model",
            )
        self.bridge: Any = bridge
        root = bridge.original_model
        assert isinstance(root, PreTrainedModel)
        self._root = root
        self._hooks: HookTable = probe_bridge(self.bridge)
        hf_tokenizer = self.bridge.tokenizer
        if hf_tokenizer is None or not hf_tokenizer.is_fast:
            raise LMError("model: the bridge has no fast tokenizer", field="model")
        self.tokenizer = LMTokenizer(
            hf_tokenizer,
            d_vocab=self.d_vocab,
            default_prepend_bos=bool(self.bridge.cfg.default_prepend_bos),
        )

    @property
    def name(self) -> str:
        return str(self.bridge.cfg.model_name)

    @property
    def device(self) -> torch.device:
        return self._root.device

    @property
    def d_vocab(self) -> int:
        """Rows of the embedding: ids below it are accepted."""
        return embedding_rows(self._root)

    @property
    def max_context(self) -> int:
        """Positions that the model was made for."""
        return max_positions(self._root, self.bridge.cfg)

    def hook_point(self, name: str) -> HookPoint:
        """The hook point that TransformerLens calls `name`.

        Raises:
            UnknownHookPointError: with the nearest names that exist.
        """
        return self._hooks.resolve(name)

    @torch.no_grad()
    def forward(
        self, tokens: Tensor, *, taps: Mapping[HookPoint, Tap], logits_at: Tensor | None = None
    ) -> Tensor | None:
        """As `LanguageModel.forward`."""
        if tokens.shape[1] > self.max_context:
            raise LMError(
                f"{tokens.shape[1]} positions; {self.name} takes at most {self.max_context}",
                field="tokens",
            )
        if not taps and logits_at is None:
            return None
        self._check_attached(taps)
        inputs: dict[str, Any] = {"use_cache": False}
        root = bridge_root(self.bridge, tokens, inputs)
        at_unembed = any(point.canonical.startswith("unembed.") for point in taps)
        wanted = None if logits_at is None else logits_at.to(self.device)
        with tapped_bridge(self.bridge.hook_dict, taps, stop_after_last=wanted is None):
            return run_pass(
                root, tokens.to(self.device), inputs, logits_at=wanted, all_logits=at_unembed
            )

    def _check_attached(self, taps: Mapping[HookPoint, Tap]) -> None:
        """Refuse taps behind an SAE of a HookedSAETransformer: they would see its output."""
        for sae in getattr(self.bridge, "acts_to_saes", {}).values():
            metadata = sae.cfg.metadata
            written = self.hook_point(metadata.hook_name_out or metadata.hook_name)
            if written in taps:
                raise LMError(
                    f"an SAE is attached at {written.name}, whose activations are wanted; detach "
                    "it first (reset_saes)",
                    field="model",
                )
