"""Reading a model from a folder, the hub's local cache or the hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .errors import LMError, ModelNotFoundError, UnsupportedModelError
from .revision import model_revision

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoadedModel:
    """A model's plain modules, in evaluation mode, and where they came from."""

    hf: PreTrainedModel
    source: str
    """The folder, or the name on the hub."""
    folder: Path | None
    commit: str | None
    """Of a model on the hub."""

    @property
    def name(self) -> str:
        """As on the hub, or the folder's name."""
        return self.folder.name if self.folder else self.source

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies beside the weights; errors as `load_model`."""
        return load_tokenizer(self.source, self.commit)


def load_model(
    name_or_dir: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | dict[str, str | int] | None = None,
    max_memory: dict[str | int, str | int] | None = None,
    accept: Callable[[Any, str], None] | None = None,
) -> LoadedModel:
    """Load what `boot_model` and TransformerLens' bridge are made of.

    Args:
        name_or_dir, revision, device, dtype: as `boot_model`.
        device_map: where each part of the model goes, as transformers takes it; `device` is then
            not looked at.
        max_memory: per device, for `device_map`.
        accept: (config, source) → raises if the model is not to be loaded; called before the
            weights are read.

    Raises:
        ModelNotFoundError: no such folder, no such name within reach, another revision.
        UnsupportedModelError: neither transformers nor TransformerLens has the architecture.
        LMError: for a device that is not there, or an unknown dtype.
    """
    torch_device = _pick_device(device)
    if dtype not in get_args(DType):
        raise LMError(f"dtype {dtype!r}; expected one of {get_args(DType)}", field="dtype")
    folder = local_folder(name_or_dir)
    source = str(folder or official_name(str(name_or_dir)))
    commit = None if folder else revision
    config = _load(AutoConfig, source, commit)
    if accept is not None:
        accept(config, source)
    if folder and revision is not None and (found := model_revision(folder)) != revision:
        raise ModelNotFoundError(
            f"folder {folder} has revision {found}, not {revision}", field="revision"
        )
    # Everything else from the very commit that the config came from.
    commit = None if folder else _cached_commit(source, revision)
    model_class = _model_class(config, source)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if device_map is not None:
        options |= {"device_map": device_map, "max_memory": max_memory}
    hf = _load(model_class, source, commit, **options)
    assert isinstance(hf, PreTrainedModel)
    if device_map is None:
        hf = hf.to(torch_device)  # type: ignore[arg-type]
    return LoadedModel(hf=hf.eval(), source=source, folder=folder, commit=commit)


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of a name on the hub; errors as `load_model`."""
    tokenizer = _load(AutoTokenizer, source, revision)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def official_name(name: str) -> str:
    """The name on the hub of one of TransformerLens' short names (``gpt2-small`` → ``gpt2``).

    Every other name is its own.
    """
    from transformer_lens.supported_models import get_official_model_name

    try:
        official: str = get_official_model_name(name)
    except ValueError:
        return name
    return official


def _pick_device(device: str) -> torch.device:
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in has.items() if there))
    kind, _, index = device.partition(":")
    if kind not in has or (index and not index.isdecimal()):
        raise LMError(f"device {device!r}; expected one of {get_args(Device)}", field="device")
    if not has[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise LMError(
            f"device {device!r} is not available to this torch ({torch.__version__}); "
            "use --device cpu, or install a build of torch for it",
            field="device",
        )
    return torch.device(device)


def local_folder(name_or_dir: str | Path | None) -> Path | None:
    """The folder that is meant, or None for what can only be a name on the hub.

    None means the small model that saekit brings along.
    """
    if name_or_dir is None:
        from saekit_core.assets import default_model_dir

        name_or_dir = default_model_dir()
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
        raise unsupported(source, f"is a {architecture}")
    return chosen


def unsupported(source: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model {source!r} {why}; saekit runs decoder-only models with attention in every layer",
        field="model",
    )


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model whose config has just been loaded, so lies in the cache."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
