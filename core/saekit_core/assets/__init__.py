"""The embedded default language model and its SAEs, as folders of the installed package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DEFAULT_MODEL = "tinystories-1m"


def default_model_dir() -> Path:
    """Folder of the default language model in Hugging Face format, tokenizer included."""
    return Path(str(files(__name__))) / DEFAULT_MODEL


def default_sae_root() -> Path:
    """Folder that holds one folder per SAE trained on the default language model."""
    return default_model_dir() / "saes"
