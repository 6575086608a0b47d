"""One language model: run it, read and replace its activations, stop as early as possible."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .bridging import SharedBridge, bridge_root, build_bridge
from .errors import LMError
from .forward_pass import run_pass
from .hook_points import HookPoint, HookTable, Tap
from .hook_probe import probe_hook_points
from .kv_slots import KVSlots, LayerShape
from .lean_step import LeanStep
from .lean_trial import find_lean_step
from .slot_support import check_slots, find_slot_layers, refuse_unknown_windows, slot_masks
from .taps import tapped_bridge, tapped_modules
from .tokenizer import LMTokenizer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class LanguageModel:
    """A causal language model from Hugging Face, with TransformerLens' hook points.

    A forward pass runs the plain modules with the fastest attention that transformers has for
    them. Only hook points that lie inside a module (attention scores and patterns, normalised
    activations before their gain, ...) make the call run through TransformerLens' bridge, which
    shares the parameters.

    Threads take turns: a pass waits for the one before it.

    Attributes:
        name: as on the hub, or the folder's name.
        revision: first 12 hex digits of a SHA-256 over the folder's files, or the hub's commit.
        ref: the branch, tag or commit that the hub was asked for; None for a folder.
        hf: the plain model: in evaluation mode, without gradients.
        tokenizer: text, chat and ids to rows of tokens and back.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: LMTokenizer,
        *,
        name: str,
        revision: str,
        ref: str | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.ref = ref
        self._shared: SharedBridge | None = build_bridge(hf, tokenizer.hf, name)
        self._cfg = self._shared.bridge.cfg
        tokenizer.default_prepend_bos = bool(self._cfg.default_prepend_bos)
        self._hooks: HookTable = probe_hook_points(hf, self._shared)
        # What the bridge holds besides the shared parameters (split copies of a fused QKV)
        # need not stay in memory for those who never go through it.
        self._shared = None
        self._slot_layers: tuple[LayerShape, ...] | None = None
        self._lean: LeanStep | None = None
        # Asked for several times a step: the model's own property looks through its modules.
        self._device = hf.device
        # Taps are attached to the modules themselves, which everybody runs.
        self._turn = threading.RLock()

    # what it is

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def architecture(self) -> str:
        """Class of the Hugging Face model: ``GPT2LMHeadModel``."""
        return type(self.hf).__name__

    @property
    def normalization(self) -> str:
        """Of the residual stream, in TransformerLens' words: ``LN``, ``RMS``, ..."""
        return str(self._cfg.normalization_type)

    @property
    def n_layers(self) -> int:
        return int(self._cfg.n_layers)

    @property
    def d_model(self) -> int:
        return int(self._cfg.d_model)

    @property
    def d_vocab(self) -> int:
        """Rows of the embedding: ids below it are accepted."""
        return embedding_rows(self.hf)

    @property
    def max_context(self) -> int:
        """Positions that the model was made for."""
        return max_positions(self.hf, self._cfg)

    @property
    def parameter_bytes(self) -> int:
        """Memory that the weights take, in bytes; tied weights count once."""
        return sum(p.numel() * p.element_size() for p in self.hf.parameters())

    @property
    def bridge(self) -> TransformerBridge:
        """TransformerLens' view of the same parameters, built when first asked for."""
        with self._turn:
            if self._shared is None:
                self._shared = build_bridge(self.hf, self.tokenizer.hf, self.name)
        bridge: TransformerBridge = self._shared.bridge
        return bridge

    # hook points

    def hook_point(self, name: str) -> HookPoint:
        """The hook point that TransformerLens calls `name`.

        Raises:
            UnknownHookPointError: with the nearest names that exist.
        """
        return self._hooks.resolve(name)

    def hook_names(self) -> list[str]:
        """Every name that `hook_point` takes, aliases included, in the order of execution."""
        return self._hooks.names()

    def runs_plain(self, point: HookPoint) -> bool:
        """Whether tapping `point` leaves the call on the plain modules (the fast path)."""
        return point.canonical in self._hooks.sites

    # running

    @torch.no_grad()
    def forward(
        self,
        tokens: Tensor,
        *,
        taps: Mapping[HookPoint, Tap],
        logits_at: Tensor | None = None,
    ) -> Tensor | None:
        """Run rows of tokens, showing activations to `taps` on the way.

        Args:
            tokens: LongTensor [R, P], padded on the right with any id. Attention is causal, so
                the padding changes nothing before it; positions past a row's end hold junk.
            taps: what to read or replace. Each is called once, with the activations
                [R, P, *point.shape].
            logits_at: LongTensor [n] of flat indices row * P + position; None: no logits, and
                the pass ends at the deepest tap.

        Returns:
            float32 [n, d_vocab], or None without `logits_at`.

        Raises:
            LMError: for more positions than `max_context`.
            ValueError: when a tap returns activations of another shape.
        """
        if tokens.shape[1] > self.max_context:
            raise LMError(
                f"{tokens.shape[1]} positions; {self.name} takes at most {self.max_context}",
                field="tokens",
            )
        if not taps and logits_at is None:
            return None
        return self._run(tokens, taps, logits_at, {"use_cache": False}, all_blocks=False)

    @torch.no_grad()
    def forward_slots(
        self,
        slots: KVSlots,
        tokens: Tensor,
        *,
        slot_ids: Tensor,
        start: Tensor,
        n_new: Tensor,
        taps: Mapping[HookPoint, Tap],
        logits_at: Tensor | None = None,
    ) -> Tensor | None:
        """Run new tokens of rows whose earlier positions lie in `slots`.

        Args:
            tokens: LongTensor [R, P], padded on the right with any id.
            slot_ids: LongTensor [R], all different. A range of ascending neighbours is cheapest:
                keys are then read in place, not copied.
            start: LongTensor [R]: position of each row's first new token. 0 begins a new
                sequence; a smaller number than the slot holds goes back to there.
            n_new: LongTensor [R]: real tokens per row, 1..P.
            taps, logits_at: as in `forward`. All blocks run, since all keys are needed.

        Keep `slot_ids`, `start` and `n_new` on the CPU: they are read here. After a pass that
        failed (out of memory, a tap's error) the same rows may be run again from the same start.

        Returns:
            float32 [n, d_vocab], or None without `logits_at`.

        Raises:
            LMError: naming the argument that does not fit the slots.
        """
        plan = slots.plan(slot_ids.tolist(), start.tolist(), n_new.tolist(), tokens.shape[1])
        lean = self._lean
        slots.begin(plan)
        try:
            if lean is not None and lean.serves(slots, taps):
                wanted = None if logits_at is None else logits_at.to(self.device)
                with self._turn:
                    return lean.run(slots, tokens.to(self.device), taps, wanted)
            positions = start[:, None] + torch.arange(plan.width, device=start.device)
            inputs: dict[str, Any] = {
                "use_cache": True,
                "past_key_values": slots,
                # Padding may run past the last position that has an embedding.
                "position_ids": positions.clamp(max=self.max_context - 1).to(self.device),
            }
            return self._run(tokens, taps, logits_at, inputs, all_blocks=True)
        finally:
            slots.end()

    def new_slots(self, n_slots: int, max_length: int) -> KVSlots:
        """Room for `n_slots` sequences of up to `max_length` positions, allocated at once.

        Raises:
            LMError: when `max_length` is beyond `max_context`, or not positive.
            UnsupportedModelError: when this architecture's cache is not of keys and values per
                position, or a trial run shows that it would not give the same logits.
        """
        if n_slots < 1:
            raise LMError(f"{n_slots} slots; at least 1 is needed", field="n_slots")
        if not 1 <= max_length <= self.max_context:
            raise LMError(
                f"{max_length} positions per slot; {self.name} takes 1..{self.max_context}",
                field="max_length",
            )
        if self._slot_layers is None:
            layers = find_slot_layers(self.hf)
            check_slots(self, layers)
            self._lean = find_lean_step(self, layers, self._hooks.sites)
            self._slot_layers = layers
        refuse_unknown_windows(self._slot_layers, max_length)
        return KVSlots(self._slot_layers, n_slots, max_length, self.dtype, self.device)

    def _run(
        self,
        tokens: Tensor,
        taps: Mapping[HookPoint, Tap],
        logits_at: Tensor | None,
        inputs: dict[str, Any],
        *,
        all_blocks: bool,
    ) -> Tensor | None:
        plain = all(self.runs_plain(point) for point in taps)
        root: PreTrainedModel = self.hf if plain else bridge_root(self.bridge, tokens, inputs)
        if "past_key_values" in inputs:
            inputs["attention_mask"] = slot_masks(inputs["past_key_values"], root)
        at_unembed = any(point.canonical.startswith("unembed.") for point in taps)
        stop_after_last = logits_at is None and not (all_blocks and not at_unembed)
        wanted = None if logits_at is None else logits_at.to(self.device)
        attached = (
            tapped_modules(root, self._hooks.sites, taps, stop_after_last=stop_after_last)
            if plain
            else tapped_bridge(self.bridge.hook_dict, taps, stop_after_last=stop_after_last)
        )
        with self._turn, attached:
            return run_pass(
                root, tokens.to(self.device), inputs, logits_at=wanted, all_logits=at_unembed
            )


def max_positions(hf: PreTrainedModel, bridge_config: Any) -> int:
    """How many positions the model was made for."""
    text_config = hf.config.get_text_config(decoder=True)
    for key in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        if (value := getattr(text_config, key, None)) is not None:
            return int(value)
    return int(bridge_config.n_ctx)


def embedding_rows(hf: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    weight: Any = hf.get_input_embeddings().weight
    return int(weight.shape[0])
