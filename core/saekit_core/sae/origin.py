"""What is known of an SAE besides its files: where it came from, and what changes its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Facts that some formats leave out of their files, known to whoever found the SAE.

    Files win where they say something themselves, except over `config_overrides`.
    """

    format: str | None = None
    """Name of the format in `saekit_core.sae.formats`; None: recognised from the content."""
    repo: str | None = None
    """Hugging Face repository ``user/repo``; None for a local folder."""
    path: str = ""
    """Folder or file in the repository."""
    release: str | None = None
    """Name in the directory of releases."""
    sae_id: str | None = None
    """Id in that release."""
    model_name: str | None = None
    neuronpedia_id: str | None = None
    norm_scaling_factor: float | None = None
    """Activations are multiplied by this before encoding, and reconstructions divided by it; it is
    folded into the weights at load (SAELens' ``fold_activation_norm_scaling_factor``)."""
    config_overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keys of the configuration that the release states otherwise than the files."""
