"""From a name or a folder to a running language model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .errors import LMError, ModelNotFoundError, UnsupportedModelError
from .model import LanguageModel, embedding_rows
from .revision import model_revision
from .tokenizer import LMTokenizer

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["float32", "bfloat16", "float16"]

_RECURRENT_LAYERS = ("linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding")


def boot_model(
    name_or_dir: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> LanguageModel:
    """Load a causal language model and find its hook points.

    Args:
        name_or_dir: a local Hugging Face folder, or a name on the hub (its local cache serves
            without a network). None: the small model that saekit brings along.
        revision: commit, branch or tag of a hub model. For a folder: the 12 digits that it must
            have.
        device: ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of the weights and activations.

    Raises:
        ModelNotFoundError: no such folder, or no such name within reach.
        UnsupportedModelError: encoder-decoder, masked, recurrent and hybrid models, and whatever
            TransformerLens has no adapter for.
        LMError: for a device that is not there, or an unknown dtype.
    """
    torch_device = _pick_device(device)
    if dtype not in get_args(DType):
        raise LMError(f"dtype {dtype!r}; expected one of {get_args(DType)}", field="dtype")
    if name_or_dir is None:
        from saekit_core.assets import default_model_dir

        name_or_dir = default_model_dir()
    folder = _local_folder(name_or_dir)
    source = str(folder or name_or_dir)
    commit = None if folder else revision
    config = _load(AutoConfig, source, commit)
    _refuse_unsupported(config, source)
    # Everything else from the very commit that the config came from.
    commit = None if folder else _cached_commit(source, revision)
    model_class = _model_class(config, source)
    hf = _load(model_class, source, commit, dtype=getattr(torch, dtype))
    assert isinstance(hf, PreTrainedModel)
    hf = hf.to(torch_device).eval().requires_grad_(False)  # type: ignore[arg-type]
    if getattr(hf, "_is_stateful", False):
        raise _unsupported(source, "is recurrent")
    tokenizer = _load_tokenizer(source, commit)
    return LanguageModel(
        hf,
        LMTokenizer(
            tokenizer,
            d_vocab=embedding_rows(hf),
            eos_ids=_eos_ids(hf),
        ),
        name=folder.name if folder else source,
        revision=_folder_revision(folder, revision) if folder else str(commit),
        ref=None if folder else revision or "main",
    )


def _pick_device(device: str) -> torch.device:
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in has.items() if there))
    if device not in has:
        raise LMError(f"device {device!r}; expected one of {get_args(Device)}", field="device")
    if not has[device]:
        raise LMError(
            f"device {device!r} is not available to this torch ({torch.__version__}); "
            "use --device cpu, or install a build of torch for it",
            field="device",
        )
    return torch.device(device)


def _local_folder(name_or_dir: str | Path) -> Path | None:
    """The folder, or None for what can only be a name on the hub."""
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"folder {path} has no config.json", field="model")
        return path.resolve()
    text = str(name_or_dir)
    looks_local = isinstance(name_or_dir, Path) or text.startswith((".", "/", "~"))
    if looks_local or text.count("/") > 1:
        raise ModelNotFoundError(f"folder {text} does not exist", field="model")
    return None


def _load(loader: Any, source: str, revision: str | None, **options: Any) -> Any:
    """`loader.from_pretrained`, from the local cache if it is there and from the hub if not.

    The cache first: a server starts at once, also without a network, and on the same revision as
    last time.
    """
    try:
        try:
            return loader.from_pretrained(
                source, revision=revision, local_files_only=True, **options
            )
        except OSError:
            if Path(source).is_dir():
                raise
            return loader.from_pretrained(source, revision=revision, **options)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = _first_line(error)
        if Path(source).is_dir():
            raise ModelNotFoundError(
                f"folder {source} cannot be read as a model: {reason}", field="model"
            ) from error
        at = f" at revision {revision}" if revision else ""
        raise ModelNotFoundError(
            f"model {source!r}{at} is neither a folder, nor in the local Hugging Face cache, nor "
            f"could it be fetched ({reason}); without a network, give a folder with config.json, "
            f"weights and tokenizer, or fill the cache elsewhere (`hf download {source}`) and "
            "bring it along",
            field="model",
        ) from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot load {source!r}: {_first_line(error)}",
            field="model",
        ) from error


def _load_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    tokenizer = _load(AutoTokenizer, source, revision)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"model {source!r} has no fast tokenizer (tokenizer.json), which byte offsets need",
            field="model",
        )
    return tokenizer


def _refuse_unsupported(config: Any, source: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise _unsupported(source, "is an encoder-decoder")
    layers = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
    if recurrent := sorted({t for t in layers if t in _RECURRENT_LAYERS}):
        raise _unsupported(source, f"has {', '.join(recurrent)} layers")


def _model_class(config: Any, source: str) -> Any:
    """The auto class under which transformers knows this architecture as a language model."""
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
        get_hf_model_class_for_architecture,
    )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            architecture: str = determine_architecture_from_hf_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        names = getattr(config, "architectures", None) or [config.model_type]
        raise UnsupportedModelError(
            f"model {source!r} is a {names[0]}, for which TransformerLens has no adapter",
            field="model",
        ) from error
    chosen = get_hf_model_class_for_architecture(architecture)
    text_models = (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText)
    if chosen not in text_models:
        raise _unsupported(source, f"is a {architecture}")
    return chosen


def _unsupported(source: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model {source!r} {why}; saekit runs decoder-only models with attention in every layer",
        field="model",
    )


def _eos_ids(hf: PreTrainedModel) -> tuple[int, ...]:
    """Ids that the model's own configuration ends a text with."""
    eos = getattr(hf.generation_config, "eos_token_id", None)
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(int(i) for i in eos)


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model whose config has just been loaded, so lies in the cache."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def _folder_revision(folder: Path, asked: str | None) -> str:
    found = model_revision(folder)
    if asked is not None and asked != found:
        raise ModelNotFoundError(
            f"folder {folder} has revision {found}, not {asked}", field="revision"
        )
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
