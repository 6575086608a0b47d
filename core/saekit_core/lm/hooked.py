"""`HookedSAETransformer`: loading a model as users of SAELens do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .bridging import boot_bridge
from .errors import LMError
from .loading import load_model, load_tokenizer, local_folder, official_name
from .sae_bridge import SAEBridge

DeviceMap = str | dict[str, str | int]


@dataclass(frozen=True)
class WeightProcessing:
    """What TransformerLens is to do to a model's weights; logits stay the same but for a shift."""

    fold_ln: bool
    center_writing_weights: bool
    center_unembed: bool
    fold_value_biases: bool
    refactor_factored_attn_matrices: bool

    def apply(self, bridge: TransformerBridge) -> None:
        """Do it; nothing at all leaves the weights of Hugging Face as they are."""
        steps = asdict(self)
        if any(steps.values()):
            bridge.enable_compatibility_mode(disable_warnings=True, **steps)


class HookedSAETransformer(SAEBridge):
    """A TransformerBridge into whose runs SAEs can be spliced; see `SAEBridge`.

    ::

        model = HookedSAETransformer.from_pretrained("gpt2-small")
        logits, cache = model.run_with_cache_with_saes(tokens, saes=[sae])
        cache[f"{sae.cfg.hook_name}.hook_sae_acts_post"]
    """

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | Path | None = None,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        *,
        fold_value_biases: bool = True,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        hf_model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        n_devices: int = 1,
        device_map: DeviceMap | None = None,
        default_prepend_bos: bool | None = None,
        default_padding_side: str | None = None,
    ) -> Self:
        """Load a model and process its weights, as TransformerLens 3 did by default.

        Args:
            model_name: a local folder, a name on the hub, or one of TransformerLens' short names
                (``gpt2-small``). None: the small model that saekit brings along.
            fold_ln, center_writing_weights, center_unembed, fold_value_biases,
            refactor_factored_attn_matrices: TransformerLens' steps of processing; each is done
                where it is true and where the architecture allows it.
            device: None: CUDA, else MPS, else CPU.
            dtype: None: float32, or that of `hf_model`.
            revision: commit, branch or tag on the hub; of a folder, the 12 digits it must have.
            checkpoint_index, checkpoint_value: a checkpoint of Pythia or a Stanford GPT-2,
                instead of `revision`.
            hf_model: a model that is loaded already; it is taken apart.
            tokenizer: None: the one beside the weights.
            n_devices: CUDA devices over which the model is spread.
            device_map: where each part goes, as transformers takes it.
            default_prepend_bos: what ``prepend_bos=None`` means; None: as TransformerLens has it.
            default_padding_side: ``left`` or ``right``.

        Raises:
            ModelNotFoundError: no such folder, or no such name within reach.
            UnsupportedModelError: an architecture for which there is no adapter.
            LMError: for a value that is not to be had.
        """
        processing = WeightProcessing(
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        if default_padding_side not in (None, "left", "right"):
            raise LMError(
                f"default_padding_side {default_padding_side!r}; expected left or right",
                field="default_padding_side",
            )
        if hf_model is None:
            bridge = _load_bridge(
                model_name,
                device=device,
                dtype=dtype,
                revision=revision,
                checkpoint_index=checkpoint_index,
                checkpoint_value=checkpoint_value,
                n_devices=n_devices,
                device_map=device_map,
                tokenizer=tokenizer,
            )
        else:
            where = (revision, checkpoint_index, checkpoint_value, device_map)
            if n_devices != 1 or any(value is not None for value in where):
                raise LMError(
                    "hf_model is loaded already: revision, checkpoint, n_devices and device_map"
                    " have nothing to act on",
                    field="hf_model",
                )
            bridge = _bridge_around(
                hf_model, model_name, device=device, dtype=dtype, tokenizer=tokenizer
            )
        if default_padding_side is not None:
            bridge.tokenizer.padding_side = default_padding_side
        if default_prepend_bos is not None:
            bridge.cfg.default_prepend_bos = default_prepend_bos
        processing.apply(bridge)
        return cls.around(bridge)

    @classmethod
    def from_pretrained_no_processing(
        cls, model_name: str | Path | None = None, **options: Any
    ) -> Self:
        """Load a model with the weights as Hugging Face has them.

        `options` are those of `from_pretrained`; of its steps of processing those are done that are
        asked for, as by ``**sae.cfg.metadata.model_from_pretrained_kwargs``.
        """
        nothing = dict.fromkeys((step.name for step in fields(WeightProcessing)), False)
        return cls.from_pretrained(model_name, **{**nothing, **options})

    @classmethod
    def boot_transformers(cls, model_name: str, **options: Any) -> Self:
        """`TransformerBridge.boot_transformers`, with a place for SAEs."""
        return cls.around(TransformerBridge.boot_transformers(model_name, **options))


def _load_bridge(
    model_name: str | Path | None,
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None,
    checkpoint_index: int | None,
    checkpoint_value: int | None,
    n_devices: int,
    device_map: DeviceMap | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> TransformerBridge:
    """A bridge over a folder or a name, raw; see `HookedSAETransformer.from_pretrained`."""
    if checkpoint_index is not None or checkpoint_value is not None:
        if revision is not None:
            raise LMError("give either a revision or a checkpoint", field="revision")
        revision = _checkpoint_revision(model_name, checkpoint_index, checkpoint_value)
    place, max_memory = _device_map(n_devices, device_map, device)
    loaded = load_model(
        model_name,
        revision=revision,
        device="auto" if device is None else str(device),
        dtype="float32" if dtype is None else str(dtype).removeprefix("torch."),
        device_map=place,
        max_memory=max_memory,
    )
    return boot_bridge(loaded.hf, tokenizer or loaded.load_tokenizer(), loaded.source)


def _bridge_around(
    hf_model: PreTrainedModel,
    model_name: str | Path | None,
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> TransformerBridge:
    """A bridge over a model that is loaded already, which becomes part of it."""
    if dtype is not None:
        hf_model = hf_model.to(getattr(torch, str(dtype).removeprefix("torch.")))
    if device is not None:
        hf_model = hf_model.to(torch.device(device))  # type: ignore[arg-type]
    name = model_name or hf_model.config.name_or_path
    if not name:
        raise LMError("hf_model does not say what it is called; give model_name", field="model")
    folder = local_folder(name)
    source = str(folder or official_name(str(name)))
    return boot_bridge(hf_model, tokenizer or load_tokenizer(source), source)


def _device_map(
    n_devices: int, device_map: DeviceMap | None, device: str | torch.device | None
) -> tuple[DeviceMap | None, dict[str | int, str | int] | None]:
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    try:
        return resolve_device_map(n_devices, device_map, device)
    except ValueError as error:
        raise LMError(str(error), field="device_map" if device_map else "n_devices") from error


def _checkpoint_revision(
    model_name: str | Path | None, index: int | None, value: int | None
) -> str:
    from transformer_lens.model_bridge.sources.transformers import _resolve_checkpoint_to_revision

    try:
        return _resolve_checkpoint_to_revision(official_name(str(model_name)), index, value)
    except ValueError as error:
        raise LMError(str(error), field="checkpoint") from error
