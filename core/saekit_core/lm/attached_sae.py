"""One SAE spliced into TransformerLens' bridge, with hook points of its own inside the splice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint, LensHandle

from saekit_core.sae import SAE, EncodeState, SAEError
from saekit_core.sae.feature_wise import GATED, gated_pre_magnitude
from saekit_core.sae.matching_pursuit import MatchingPursuit
from saekit_core.sae.temporal import Temporal
from saekit_core.sae.weights import ALL

from .errors import LMError, UnsupportedModelError


class AttachedSAE:
    """An SAE that reads the activations x at one hook point and writes at it, or at another.

    Its own hook points are those of SAELens, called ``{hook_name_out or hook_name}.hook_sae_…``,
    and what a hook returns there is what the splice goes on with:

    - `hook_sae_input`: x in the SAE's dtype, heads flattened, ``[..., d_in]``
    - `hook_sae_acts_pre`: pre-activations ``[..., d_sae]``; of a gated SAE those of the magnitudes,
      and none of a matching pursuit
    - `hook_sae_acts_post`: feature activations a, ``[..., d_sae]``
    - `hook_sae_recons`: a W_dec + b_dec ``[..., d_out]``, before the normalisation is undone and
      a skip added
    - `hook_sae_error`: with the error term alone, h less the reconstruction of what is not edited
    - `hook_sae_output`: what takes the place of h

    With the error term, h stays bit for bit what it was where nothing is edited, and an edit adds
    the difference that it makes to the reconstruction. Gradients take the way through the SAE; the
    error is a constant to them.

    Attributes:
        sae: the SAE.
        hook_name: where it reads, as its metadata writes it.
        reads: the hook point of that name.
        writes: where its output belongs; the same but for transcoders.
        name_out: the name of that.
        hook_points: its own hook points by their full names.
        paused: whether activations pass as if it were not there.
    """

    def __init__(
        self,
        sae: SAE,
        reads: HookPoint,
        writes: HookPoint,
        *,
        use_error_term: bool,
        excluded: Sequence[int],
    ) -> None:
        """
        Args:
            excluded: ids of tokens at whose positions h stays as it is.
        """
        self.sae = sae
        self.hook_name = str(sae.cfg.metadata.hook_name)
        self.reads = reads
        self.writes = writes
        self.paused = False
        self._use_error_term = use_error_term
        self._excluded = torch.tensor(excluded) if excluded else None
        self._head = sae.cfg.metadata.hook_head_index
        self.name_out = sae.cfg.metadata.hook_name_out or self.hook_name
        self.hook_points: dict[str, HookPoint] = {}
        self._input = self._hook_point("hook_sae_input")
        self._acts_pre = self._hook_point("hook_sae_acts_pre")
        self._acts_post = self._hook_point("hook_sae_acts_post")
        self._recons = self._hook_point("hook_sae_recons")
        self._error = self._hook_point("hook_sae_error")
        self._output = self._hook_point("hook_sae_output")
        self._handles: list[tuple[HookPoint, LensHandle]] = []
        self._root_handles: list[Any] = []
        self._fired = False
        self._x: Tensor | None = None
        self._mask: Tensor | None = None

    def _hook_point(self, name: str) -> HookPoint:
        point = HookPoint()  # type: ignore[no-untyped-call]
        point.name = f"{self.name_out}.{name}"
        self.hook_points[point.name] = point
        return point

    def attach(self, root: nn.Module) -> None:
        """Take part in the runs of `root`, the model inside the bridge."""
        self._add_hooks()
        self._root_handles = [
            root.register_forward_pre_hook(self._begin_run, with_kwargs=True),
            root.register_forward_hook(self._end_run, always_call=True),
        ]

    def detach(self) -> None:
        """Undo `attach`."""
        self._remove_hooks()
        for handle in self._root_handles:
            handle.remove()
        self._root_handles = []

    def _add_hooks(self) -> None:
        # Splice before a user's own hooks, which then see what flows on whenever they were added;
        # read behind them, so that a transcoder sees what the part it stands for would see.
        points = [(self.writes, self._splice, True)]
        if self.reads is not self.writes:
            points.append((self.reads, self._read, False))
        for point, hook, first in points:
            handle = point.add_hook(hook, is_permanent=True, prepend=first)
            self._handles.append((point, handle))

    def _remove_hooks(self) -> None:
        for point, handle in self._handles:
            handle.hook.remove()
            point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]
        self._handles = []

    # one run

    def _begin_run(self, _root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget_run()
        # Anew: behind the hooks of this run, and back again after a `reset_hooks` that took all.
        self._remove_hooks()
        self._add_hooks()
        if self._excluded is not None:
            tokens = kwargs.get("input_ids", args[0] if args else None)
            if tokens is None:
                raise LMError(
                    f"exclude_special_tokens at {self.hook_name} needs token ids, and this run "
                    "begins with embeddings",
                    field="exclude_special_tokens",
                )
            self._mask = torch.isin(tokens, self._excluded.to(tokens.device))
        past = kwargs.get("past_key_values")
        if self.sae.architecture.sequential and past is not None and past.get_seq_length():
            raise UnsupportedModelError(
                f"the {self.sae.cfg.architecture} SAE at {self.hook_name} needs whole sequences; "
                "run without key-value cache (generate: use_past_kv_cache=False)",
                field="past_key_values",
            )

    def _end_run(self, _root: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        fired = self._fired
        self._forget_run()
        # A run that ended early, at a layer or in an error, has no output.
        if output is not None and not fired and not self.paused:
            raise LMError(
                f"the SAE at {self.hook_name} was not run: {self.name_out} does not fire in this "
                "model",
                field="hook_name",
            )

    def _forget_run(self) -> None:
        self._fired, self._x, self._mask = False, None, None

    def _read(self, tensor: Tensor, *, hook: HookPoint) -> None:  # noqa: ARG002
        self._x = self._part(tensor)

    def _splice(self, tensor: Tensor, *, hook: HookPoint) -> Tensor | None:  # noqa: ARG002
        if self.paused:
            return None
        h, here = tensor, self._part(tensor)
        x = here if self.reads is self.writes else self._x
        if x is None:
            raise LMError(
                f"the SAE at {self.hook_name} writes at {self.name_out}, which fires before it",
                field="hook_name_out",
            )
        self._fired = True
        new = self._replacement(here, x).to(h.dtype)
        if here is h:
            return new
        whole = h.clone()
        whole[..., self._head, :] = new
        return whole

    def _part(self, h: Tensor) -> Tensor:
        """What of the activations at a hook point is this SAE's: one head, or all."""
        if self._head is None or h.dim() != 4:
            return h
        if not 0 <= self._head < h.shape[-2]:
            raise LMError(
                f"the SAE at {self.hook_name} is of head {self._head}; there are {h.shape[-2]}",
                field="hook_head_index",
            )
        return h[..., self._head, :]

    def _replacement(self, h: Tensor, x: Tensor) -> Tensor:
        through = _Through()
        state, recons = self._reconstruct(x, through)
        y = self._fitted(self.sae.restore(through(self._recons, recons), state), h)
        mask = self._mask_for(h)
        if self._use_error_term:
            y = self._with_error(h, x, y, mask, edited=through.changed)
        y = y.to(h.dtype)
        if mask is not None:
            y = torch.where(mask, h, y)
        output: Tensor = self._output(y)
        return output

    def _reconstruct(self, x: Tensor, through: _Through) -> tuple[EncodeState, Tensor]:
        """The state of the encoding, and a W_dec + b_dec; every value passes its hook point."""
        sae, cfg = self.sae, self.sae.cfg
        if cfg.reshape_activations == "hook_z" and x.shape[-1] != cfg.d_in:
            x = x.flatten(-2)
        # A copy: a hook that edits it in place must not edit the model's own activations.
        x = through(self._input, x.to(sae.dtype, copy=True))
        try:
            x_tilde, state = sae.prepare(x)
        except SAEError as error:
            raise LMError(f"the SAE at {self.hook_name}: {error}", field="hook_name") from error
        select, weights = sae.architecture.select, sae.weights()
        if isinstance(select, MatchingPursuit):
            acts = select.encode(cfg, weights, x_tilde)
        elif isinstance(select, Temporal):
            p, predicted = select.pre_activations(cfg, weights, x_tilde)
            state = replace(state, predicted=predicted)
            acts = select.activate(cfg, through(self._acts_pre, p))
        elif select is GATED:
            p = sae.pre_activations(x_tilde)
            magnitude = F.relu(through(self._acts_pre, gated_pre_magnitude(weights, p)))
            acts = torch.where(p > select.threshold(weights, ALL), magnitude, 0.0)
        else:
            acts = sae.activate(through(self._acts_pre, sae.pre_activations(x_tilde)))
        return state, sae.reconstruct(through(self._acts_post, acts))

    def _with_error(
        self, h: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, *, edited: bool
    ) -> Tensor:
        """h and the difference that edits make to the reconstruction y."""
        if edited:
            with torch.no_grad():
                acts, state = self.sae.encode_with_state(x)
                clean = self._fitted(self.sae.decode(acts, state), h)
        else:
            clean = y.detach()
        with torch.no_grad():
            error = h - clean
            if mask is not None:
                error = torch.where(mask, 0.0, error)
            through = _Through()
            shown = through(self._error, error)
        if through.changed or shown.requires_grad:
            return y + shown
        if not edited and not y.requires_grad:
            return h.clone()
        wide = torch.promote_types(error.dtype, torch.float32)
        return h.detach() + (y.to(wide) - clean.to(wide))

    def _fitted(self, y: Tensor, h: Tensor) -> Tensor:
        if y.numel() != h.numel():
            raise LMError(
                f"the SAE at {self.hook_name} writes {y.shape[-1]} values; the activations at "
                f"{self.name_out} are {tuple(h.shape)}",
                field="hook_name_out",
            )
        return y.view(h.shape)

    def _mask_for(self, h: Tensor) -> Tensor | None:
        """Where h stays as it is, of a shape that fits it."""
        if self._excluded is None:
            return None
        if self._mask is None or self._mask.shape != h.shape[:2]:
            raise LMError(
                f"exclude_special_tokens: the activations at {self.name_out}, {tuple(h.shape)}, "
                "are not those of one position per token of this run",
                field="exclude_special_tokens",
            )
        return self._mask.to(h.device).view(*h.shape[:2], *(1,) * (h.dim() - 2))


class _Through:
    """Sends values through hook points and notes whether a hook there has changed one."""

    def __init__(self) -> None:
        self.changed = False

    def __call__(self, point: HookPoint, value: Tensor) -> Tensor:
        # Tensors of inference mode do not count their changes: any hook may have made one.
        counted = not value.is_inference()
        before = value._version if counted else 0
        new: Tensor = point(value)
        if new is not value or (value._version != before if counted else point.has_hooks("fwd")):
            self.changed = True
        return new
