"""TransformerLens' bridge with SAEs spliced into its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from saekit_core.sae import SAE

from .attached_sae import AttachedSAE
from .errors import LMError
from .hook_points import unknown_hook_point
from .resid_mid import join_resid_mid
from .taps import first_output
from .tokenizer import structural_token_ids

SAEs = SAE | Sequence[SAE]
Excluded = bool | Sequence[int] | None


class SAEBridge(TransformerBridge):
    """A TransformerBridge into whose runs SAEs can be spliced.

    A splice is a hook among others: hooks of a user's own, temporary and permanent ones, stay when
    SAEs come and go. At the same hook point they run after the splice and see its output. Inside
    it, ``blocks.2.hook_resid_pre.hook_sae_acts_post`` and its like are hook points too; see
    `AttachedSAE` for all of them. The names of a transcoder's begin with its `hook_name_out`.

    Arguments that methods share:

    - `saes`: an SAE or several. One whose hook points an attached SAE reads or writes already
      takes the place of that.
    - `use_error_term`: whether what an SAE fails to reconstruct is added to its output. None: as
      the SAE says (`SAE.use_error_term`).
    - `exclude_special_tokens`: True: at BOS, EOS, padding and separator tokens the activations
      stay as they are. Ids: at these instead. None: as the SAE was trained
      (`SAEMetadata.exclude_special_tokens`).
    - `reset_saes_end`: whether what was attached before is put back at the end.
    """

    def __init__(self, model: nn.Module, adapter: Any, tokenizer: Any, **options: Any) -> None:
        """See TransformerBridge; `around` and the loaders of `HookedSAETransformer` are simpler."""
        super().__init__(model, adapter, tokenizer, **options)
        self._begin()

    def _begin(self) -> None:
        self._attached: list[AttachedSAE] = []
        join_resid_mid(self)

    @classmethod
    def around(cls, bridge: TransformerBridge) -> Self:
        """`bridge` itself, which henceforth takes SAEs."""
        # Its constructor would take the model apart a second time.
        bridge.__class__ = cls
        assert isinstance(bridge, cls)
        bridge._begin()
        return bridge

    # attaching

    @property
    def acts_to_saes(self) -> dict[str, SAE]:
        """The SAEs attached, by the hook point that each reads, as its metadata writes it."""
        return {attached.hook_name: attached.sae for attached in self._attached}

    def add_sae(
        self,
        sae: SAE,
        use_error_term: bool | None = None,
        exclude_special_tokens: Excluded = False,
    ) -> None:
        """Attach an SAE until `reset_saes`.

        Raises:
            UnknownHookPointError: its hook point does not exist here; with the nearest names.
            LMError: its metadata name none.
        """
        new = self._prepared(sae, use_error_term, exclude_special_tokens)
        for old in self._in_the_way(new):
            self._detach(old)
        self._attach(new)

    def reset_saes(
        self,
        act_names: str | Sequence[str] | None = None,
        prev_saes: Sequence[SAE | None] | None = None,
    ) -> None:
        """Detach SAEs.

        Args:
            act_names: the hook points that they read; where there is none, nothing happens.
                None: all that are attached.
            prev_saes: for each of them, the SAE to attach instead, or None.

        Raises:
            UnknownHookPointError: a name that does not exist.
            LMError: not as many `prev_saes` as names.
        """
        if act_names is None:
            act_names = list(self.acts_to_saes)
        names = [act_names] if isinstance(act_names, str) else list(act_names)
        if prev_saes is None:
            prev_saes = [None] * len(names)
        if len(prev_saes) != len(names):
            raise LMError(f"{len(prev_saes)} for {len(names)} hook points", field="prev_saes")
        points = [self._point(name) for name in names]
        for attached in [a for a in self._attached if a.reads in points]:
            self._detach(attached)
        for previous in prev_saes:
            if previous is not None:
                self.add_sae(previous)

    @contextmanager
    def saes(
        self,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: Excluded = False,
    ) -> Iterator[Self]:
        """Attach SAEs for the length of a ``with``; errors as `add_sae`, before any is attached."""
        new = [
            self._prepared(sae, use_error_term, exclude_special_tokens)
            for sae in ([saes] if isinstance(saes, SAE) else saes)
        ]
        replaced: list[AttachedSAE] = []
        for attached in new:
            for old in self._in_the_way(attached):
                self._detach(old)
                replaced.append(old)
            self._attach(attached)
        try:
            yield self
        finally:
            if reset_saes_end:
                for attached in new:
                    self._detach(attached)
                for old in replaced:
                    # Unless an SAE that was added meanwhile is to stay in its place.
                    if old not in new and not self._in_the_way(old):
                        self._attach(old)

    def _prepared(
        self, sae: SAE, use_error_term: bool | None, exclude_special_tokens: Excluded
    ) -> AttachedSAE:
        if not isinstance(sae, SAE):
            raise TypeError(f"saes: expected an SAE, got {type(sae).__name__}")
        metadata = sae.cfg.metadata
        if exclude_special_tokens is None:
            exclude_special_tokens = metadata.exclude_special_tokens or False
        reads = self._point(metadata.hook_name)
        attached = AttachedSAE(
            sae,
            reads,
            self._point(metadata.hook_name_out) if metadata.hook_name_out else reads,
            use_error_term=sae.use_error_term if use_error_term is None else use_error_term,
            excluded=self._ids(exclude_special_tokens),
        )
        self.check_hooks_to_add(reads, attached.hook_name, attached.attach)
        self.check_hooks_to_add(attached.writes, attached.name_out, attached.attach)
        return attached

    def _point(self, name: str | None) -> HookPoint:
        if name is None:
            raise LMError("the SAE's metadata name no hook point", field="hook_name")
        points = self.hook_dict
        if name not in points:
            raise unknown_hook_point(name, list(points))
        return points[name]

    def _ids(self, excluded: bool | Sequence[int]) -> Sequence[int]:
        if excluded is not True:
            return excluded or ()
        if self.tokenizer is None:
            raise LMError("no tokenizer knows the special tokens", field="exclude_special_tokens")
        return structural_token_ids(self.tokenizer)

    def _in_the_way(self, new: AttachedSAE) -> list[AttachedSAE]:
        return [old for old in self._attached if old.reads is new.reads or old.writes is new.writes]

    def _attach(self, attached: AttachedSAE) -> None:
        attached.attach(self.original_model)
        self._hook_registry.update(attached.hook_points)
        self._attached.append(attached)

    def _detach(self, attached: AttachedSAE) -> None:
        if attached in self._attached:
            attached.detach()
            for name in attached.hook_points:
                del self._hook_registry[name]
            self._attached.remove(attached)

    # running

    def run_with_saes(
        self,
        *model_args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: Excluded = False,
        **model_kwargs: Any,
    ) -> Any:
        """The forward pass with SAEs spliced in; what it returns depends on `return_type`."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self(*model_args, **model_kwargs)

    def run_with_cache_with_saes(
        self,
        *model_args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: Excluded = False,
        **kwargs: Any,
    ) -> Any:
        """`run_with_cache` with SAEs spliced in; the cache has their hook points too."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_cache(*model_args, **kwargs)

    def run_with_hooks_with_saes(
        self,
        *model_args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: Excluded = False,
        **kwargs: Any,
    ) -> Any:
        """`run_with_hooks` with SAEs spliced in; hooks may stand at their hook points too."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_hooks(*model_args, **kwargs)

    def forward(  # type: ignore[override]
        self,
        input: Any,
        return_type: str | None = "logits",
        *,
        stop_at_layer: int | None = None,
        **options: Any,
    ) -> Any:
        """As TransformerBridge, with TransformerLens 3's meaning of `stop_at_layer`."""
        with self._stopping(stop_at_layer) as stop:
            return super().forward(input, return_type, stop_at_layer=stop, **options)

    def run_with_cache(self, *args: Any, stop_at_layer: int | None = None, **kwargs: Any) -> Any:
        """As TransformerBridge, with TransformerLens 3's meaning of `stop_at_layer`."""
        with self._stopping(stop_at_layer) as stop:
            return super().run_with_cache(*args, stop_at_layer=stop, **kwargs)

    @contextmanager
    def _stopping(self, layer: int | None) -> Iterator[int | None]:
        """The layer at which the bridge is to stop, with what it does otherwise mended.

        The bridge runs the hooks at the entry of that layer, SAEs among them, and does not stop
        behind the last one.
        """
        if layer is None:
            yield None
            return
        n_layers = len(self.blocks)
        at = layer + n_layers if layer < 0 else layer
        if at < 0:
            raise LMError(
                f"{layer} is before the first of {n_layers} layers", field="stop_at_layer"
            )
        if at >= n_layers:
            handle = self.blocks[-1].register_forward_hook(_stop)
            try:
                yield None
            finally:
                handle.remove()
            return
        entry = self.blocks[at].hook_in
        behind = [attached for attached in self._attached if attached.writes is entry]
        for attached in behind:
            attached.paused = True
        try:
            yield at
        finally:
            for attached in behind:
                attached.paused = False

    def enable_compatibility_mode(self, *args: Any, **kwargs: Any) -> None:
        """As TransformerBridge; SAEs must not be attached meanwhile."""
        if self._attached:
            raise LMError("detach the SAEs first (reset_saes)", field="saes")
        super().enable_compatibility_mode(*args, **kwargs)
        join_resid_mid(self)


def _stop(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
    raise StopAtLayerException(first_output(output))
