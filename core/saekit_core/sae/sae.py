"""One sparse autoencoder: activations in, feature activations out, and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saekit_core.sae.architectures import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
)
from saekit_core.sae.config import CONSTANT_SCALAR, SAEConfig
from saekit_core.sae.dtypes import dtype_name, torch_dtype
from saekit_core.sae.errors import SAEError
from saekit_core.sae.feature_wise import FeatureWise
from saekit_core.sae.folding import fold_decoder_norms, folded_config, folded_weights
from saekit_core.sae.normalization import (
    STATE_OF_NORMALIZATION,
    EncodeState,
    denormalize,
    normalize,
)
from saekit_core.sae.temporal import Temporal
from saekit_core.sae.tensor_checks import check_tensors
from saekit_core.sae.weights import ALL


class SAE(nn.Module):
    """A sparse autoencoder.

    ``encode_with_state`` and ``decode(acts, state)`` are pure functions of the weights. ``encode``
    and ``decode(acts)`` are the SAELens pair: decode then finds the state of this thread's last
    ``encode`` by itself.

    An SAE unpacks as ``sae, cfg_dict, sparsity``, the form in which SAELens 3 to 5 return one.

    Attributes:
        cfg: sizes, architecture and metadata.
        W_enc: ``[d_in, d_sae]``; a view of W_dec where the two are tied.
        W_dec: ``[d_sae, d_out]``; its rows are the feature directions.
        b_dec: ``[d_out]``.
        b_enc: ``[d_sae]``; None for kinds without it, such as gated, which has b_gate, b_mag and
            r_mag ``[d_sae]`` instead.
        threshold: ``[d_sae]``; jumprelu kinds only.
        W_skip: ``[d_out, d_in]``; skip transcoders only.
        sparsity: log10 of (frequency + 1e-10) per feature, ``[d_sae]``, if the folder records it.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_enc: nn.Parameter | None
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter
    threshold: nn.Parameter
    W_skip: nn.Parameter
    sparsity: Tensor | None
    use_error_term: bool = False
    """Whether a splice keeps what this SAE fails to reconstruct, where it is not told."""

    def __init__(
        self, cfg: SAEConfig, state: Mapping[str, Tensor], sparsity: Tensor | None = None
    ) -> None:
        """Wrap tensors that exist; they are not copied.

        Raises:
            SAEFormatError: a tensor is missing, superfluous, or of the wrong shape or dtype.
        """
        super().__init__()
        check_tensors(cfg, state)
        self.cfg = replace(cfg, device=str(state["W_dec"].device))
        self._tied = "W_enc" not in state
        self.register_parameter("b_enc", None)
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:  # the attention layers of temporal SAEs
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, nn.Parameter(tensor))
        self.sparsity = sparsity
        self._last = _LastState()

    @classmethod
    def from_config(cls, cfg: SAEConfig, *, generator: torch.Generator | None = None) -> SAE:
        """A fresh SAE: random decoder directions, the encoder their transpose, biases zero."""
        dtype = torch_dtype(cfg.dtype)
        state = {
            name: torch.zeros(shape, dtype=dtype, device=cfg.device)
            for name, shape in architecture_of(cfg).shapes(cfg).items()
        }
        nn.init.kaiming_uniform_(state["W_dec"], generator=generator)
        for name, tensor in state.items():
            if name == "W_enc" and tensor.shape == state["W_dec"].mT.shape:
                tensor.copy_(state["W_dec"].mT)
            elif name == "W_enc" or (name.startswith("attn_layers") and tensor.dim() == 2):
                nn.init.kaiming_uniform_(tensor, generator=generator)
        return cls(cfg, state)

    @classmethod
    def from_state(cls, cfg: SAEConfig, state: Mapping[str, Tensor]) -> SAE:
        """An SAE around tensors that exist; see the constructor."""
        return cls(cfg, state)

    @classmethod
    def load_from_disk(
        cls, path: str | Path, device: str = "cpu", dtype: str | torch.dtype | None = None
    ) -> SAE:
        """Read a SAELens folder (versions 3 to 6), or an SAE of any format in docs/formats.md.

        On the CPU and in the folder's own dtype the weights are mapped, not copied: do not write
        over the files of an SAE in use.

        Raises:
            SAENotFoundError: there is no such folder.
            SAEFormatError: the folder is broken, naming file and key.
        """
        from saekit_core.sae.disk import read_sae_folder

        return read_sae_folder(path, device=device, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        release: str,
        sae_id: str = "",
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        force_download: bool = False,
        *,
        fold_W_dec_norm: bool = False,
        revision: str | None = None,
    ) -> SAE:
        """Load an SAE of a public release, a Hugging Face repository, or a local folder.

        ``sae, cfg_dict, sparsity = SAE.from_pretrained(...)`` works as well.

        Args:
            release: a local folder; else a release that `saekit saes releases` lists; else a
                repository ``user/repo``.
            sae_id: id in the release; path in the repository or folder, "" if it is the SAE itself.
            device: where the weights go.
            dtype: number type to convert to; None keeps that of the files.
            force_download: fetch again what the local cache has.
            fold_W_dec_norm: call `fold_W_dec_norm` on the SAE.
            revision: branch, tag or commit of the repository.

        Raises:
            SAENotFoundError: nothing is there, or the network is needed and missing.
            SAEFormatError: what is there is broken.
        """
        from saekit_core.sae.pretrained import load_pretrained

        sae = load_pretrained(
            release,
            sae_id,
            device=device,
            dtype=dtype,
            revision=revision,
            force_download=force_download,
        )
        if fold_W_dec_norm:
            sae.fold_W_dec_norm()
        return sae

    @classmethod
    def from_pretrained_with_cfg_and_sparsity(
        cls,
        release: str,
        sae_id: str = "",
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        force_download: bool = False,
        *,
        fold_W_dec_norm: bool = False,
        revision: str | None = None,
    ) -> tuple[SAE, dict[str, Any], Tensor | None]:
        """As `from_pretrained`, unpacked: the SAE, its configuration as flat and present keys, and
        log10 of (frequency + 1e-10) per feature ``[d_sae]`` if the files record it.
        """
        sae, cfg_dict, sparsity = cls.from_pretrained(
            release,
            sae_id,
            device,
            dtype,
            force_download,
            fold_W_dec_norm=fold_W_dec_norm,
            revision=revision,
        )
        return sae, cfg_dict, sparsity

    def __iter__(self) -> Iterator[Any]:
        yield self
        yield self.cfg.to_flat_dict()
        yield self.sparsity

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.cfg.architecture]

    @property
    def feature_wise(self) -> bool:
        """Whether each feature depends on its own encoder column only."""
        return isinstance(self.architecture.select, FeatureWise)

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, sharing memory with the parameters."""
        return dict(self.named_parameters())

    def __getattr__(self, name: str) -> Any:
        if name == "W_enc" and self._tied:
            return self.W_dec.mT
        return super().__getattr__(name)

    def encode_with_state(self, x: Tensor) -> tuple[Tensor, EncodeState]:
        """Feature activations of x, and what decode needs to undo the normalisation.

        Args:
            x: ``[..., d_in]`` of any float dtype, or ``[..., heads, d_head]`` for a hook_z SAE.

        Returns:
            ``[..., d_sae]`` in the SAE's dtype, and the state. A temporal SAE takes whole sequences
            ``[..., positions, d_in]``, and gives the features of what their context does not
            predict.

        Raises:
            SAEError: x has another width than d_in, or lacks an axis.
        """
        x_tilde, state = self.prepare(x)
        select = self.architecture.select
        if not isinstance(select, Temporal):
            return self.architecture.encode(self.cfg, self.weights(), x_tilde), state
        if x_tilde.dim() < 2:
            raise SAEError(f"activations: {tuple(x.shape)} is no sequence of positions", field="x")
        acts, predicted = select.encode(self.cfg, self.weights(), x_tilde)
        return acts, replace(state, predicted=predicted)

    def prepare(self, x: Tensor) -> tuple[Tensor, EncodeState]:
        """x̃ ``[..., d_in]``: x in the SAE's dtype, flattened, normalised, less `b_dec`."""
        x = x.to(self.dtype)
        head_shape = None
        # A hook_z SAE also takes activations whose heads are flattened already.
        if self.cfg.reshape_activations == "hook_z" and x.shape[-1] != self.cfg.d_in:
            if x.dim() < 2:
                raise SAEError(f"activations: {tuple(x.shape)} has no heads axis", field="x")
            head_shape = (x.shape[-2], x.shape[-1])
            x = x.flatten(-2)
        if x.shape[-1] != self.cfg.d_in:
            raise SAEError(
                f"activations: last axis is {x.shape[-1]}, expected d_in={self.cfg.d_in}", field="x"
            )
        factor = self.cfg.activation_normalization_factor or 1.0
        x_tilde, state = normalize(x, self.cfg.normalize_activations, factor=factor)
        if self.cfg.apply_b_dec_to_input:
            x_tilde = x_tilde - self.b_dec
        if self.architecture.transcodes:
            # What it reconstructs has a scale of its own, which no normalisation of x tells.
            return x_tilde, EncodeState(x=x if self.architecture.skips else None)
        return x_tilde, replace(state, head_shape=head_shape)

    def pre_activations(self, x_tilde: Tensor) -> Tensor:
        """p = x̃ W_enc + b_enc, ``[..., d_sae]``; gated has no b_enc and its paths share p.

        Raises:
            SAEError: matching pursuit and temporal have none.
        """
        return self.architecture.pre_activations(self.weights(), x_tilde)

    def activate(self, p: Tensor) -> Tensor:
        """Feature activations of pre-activations, both ``[..., d_sae]``."""
        return self.architecture.activate(self.cfg, self.weights(), p)

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations ``[..., d_sae]``; the state is kept for this thread's next `decode`.

        Args and errors as `encode_with_state`.
        """
        acts, state = self.encode_with_state(x)
        # Without a state, decode is that of the features alone, as SAELens has it.
        self._last.state = replace(state, x=None, predicted=None)
        return acts

    def decode(self, acts: Tensor, state: EncodeState | None = None) -> Tensor:
        """Reconstruction ``[..., d_out]`` (``[..., heads, d_head]`` for a hook_z SAE).

        Args:
            acts: ``[..., d_sae]``.
            state: from `encode_with_state`. Without it, that of this thread's last `encode` is
                used, if this SAE needs one at all; what a skip transcoder adds of the raw
                activations, and what a temporal SAE's context predicts, is then left out.

        Raises:
            SAEError: acts has another width than d_sae; or a state is needed and there is none
                whose leading shape is that of acts.
        """
        if acts.shape[-1] != self.cfg.d_sae:
            raise SAEError(
                f"feature activations: last axis is {acts.shape[-1]}, expected "
                f"d_sae={self.cfg.d_sae}",
                field="acts",
            )
        if state is None:
            state = self._remembered_state(acts)
        y = self.restore(self.reconstruct(acts), state)
        return y if state.head_shape is None else y.reshape(*y.shape[:-1], *state.head_shape)

    def reconstruct(self, acts: Tensor) -> Tensor:
        """acts W_dec + b_dec, ``[..., d_out]``: what `restore` makes a reconstruction of."""
        rows = self.architecture.decoder_rows(self.cfg, self.weights(), ALL)
        return self._add_bias(F.linear(acts.to(self.dtype), rows.mT))

    def finish_decode(self, y: Tensor, state: EncodeState) -> Tensor:
        """Reconstruction of a weighted sum of decoder rows, both ``[..., d_out]``, in y's dtype."""
        return self.restore(self._add_bias(y), state)

    def _add_bias(self, y: Tensor) -> Tensor:
        bias = self.architecture.decoder_bias(self.cfg, self.weights())
        return y if bias is None else y + bias.to(y.dtype)

    def restore(self, y: Tensor, state: EncodeState) -> Tensor:
        """y ``[..., d_out]`` with the normalisation undone and what the state carries added."""
        if state.predicted is not None:
            y = y + state.predicted.to(y.dtype)
        if self.cfg.normalize_activations == CONSTANT_SCALAR and state.scale is None:
            factor = self.cfg.activation_normalization_factor or 1.0
            state = replace(state, scale=y.new_tensor(factor))
        y = denormalize(y, state)
        if state.x is not None:
            W_skip = self.weights()["W_skip"].to(y.dtype)
            y = y + F.linear(state.x.to(y.dtype), W_skip)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode; a pure function of x.

        With `use_error_term` what an autoencoder fails to reconstruct is added, without a gradient.
        """
        y = self.decode(*self.encode_with_state(x))
        if self.use_error_term and not self.architecture.transcodes:
            return y + (x - y).detach()
        return y

    def encode_features(self, x: Tensor, features: Tensor) -> tuple[Tensor, EncodeState]:
        """Activations of a few features per row, as the full `encode` gives them.

        A feature-wise SAE gathers only their encoder columns, and computes in float32; the others
        encode in full and gather.

        Args:
            x: ``[R, P, d_in]`` (or with heads).
            features: LongTensor ``[R, K]``, a set of its own for each row.

        Returns:
            float32 ``[R, P, K]``, and the state.
        """
        select = self.architecture.select
        if not isinstance(select, FeatureWise):
            acts, state = self.encode_with_state(x)
            index = features[:, None, :].expand(-1, acts.shape[1], -1)
            return acts.gather(-1, index).float(), state
        x_tilde, state = self.prepare(x)
        columns = self.W_enc.mT[features].float()  # [R, K, d_in]
        p = torch.bmm(x_tilde.float(), columns.mT)
        # [R, 1, K]: a row's features are the same at each of its positions.
        index = features[:, None, :]
        weights = {
            name: tensor.float() if tensor.dim() == 1 else tensor
            for name, tensor in self.weights().items()
        }
        bias = select.bias(weights, index)
        return select.activate(weights, p if bias is None else p + bias, index), state

    def decoder_rows(self, features: Tensor) -> Tensor:
        """Decoder rows as decode uses them, float32 ``[..., d_out]``, of a LongTensor ``[...]``."""
        return self.architecture.decoder_rows(self.cfg, self.weights(), features).float()

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:  # noqa: N802 (SAELens' name)
        """Make decoder rows unit vectors and the encoder carry their norms, in place.

        What is decoded stays the same; feature activations become contributions in residual norm.

        Raises:
            SAEError: for kinds that would then select other features: matching pursuit, temporal,
                and topk and abstopk without rescaling.
        """
        fold_decoder_norms(self.cfg, self.weights())

    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Make the SAE take activations as they are, where it took them times a factor, in place.

        Raises:
            SAEError: the factor is not above 0, or a temporal SAE.
        """
        cfg = folded_config(self.cfg, scaling_factor)
        for name, tensor in folded_weights(self.weights(), scaling_factor).items():
            self.get_parameter(name).copy_(tensor)
        self.cfg = cfg

    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write a SAELens v6 folder that appears at once or not at all.

        Returns:
            The paths of the weights and of ``cfg.json``.
        """
        from saekit_core.sae.disk import write_sae_folder
        from saekit_core.sae.layout import CFG_FILE, WEIGHTS_FILE

        folder = write_sae_folder(self, path)
        return folder / WEIGHTS_FILE, folder / CFG_FILE

    def _remembered_state(self, acts: Tensor) -> EncodeState:
        state = self._last.state or EncodeState()
        kind, reshaping = self.cfg.normalize_activations, self.cfg.reshape_activations
        needs_rows = kind in STATE_OF_NORMALIZATION and not self.architecture.transcodes
        if not needs_rows and reshaping == "none":
            return EncodeState()
        if self._last.state is None:
            raise SAEError(
                f"decode: this SAE ({kind}, {reshaping}) needs the state of an encode, and this "
                "thread has made none; pass the state of encode_with_state",
                field="state",
            )
        shape = state.leading_shape()
        if needs_rows and shape != tuple(acts.shape[:-1]):
            raise SAEError(
                f"decode: feature activations of shape {tuple(acts.shape)} do not fit the state of "
                f"this thread's last encode, {shape}; pass the state of encode_with_state",
                field="state",
            )
        return state

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAE:
        # Module.to and its like end here, so that cfg never tells another device or dtype.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.cfg = replace(self.cfg, device=str(self.device), dtype=dtype_name(self.dtype))
        return self


class _LastState(threading.local):
    """The state of this thread's last encode; a copy or a pickle of it starts empty."""

    state: EncodeState | None = None

    def __reduce__(self) -> tuple[type[_LastState], tuple[()]]:
        return _LastState, ()
