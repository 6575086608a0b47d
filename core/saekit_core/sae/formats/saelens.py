"""Folders of SAELens 3 to 6, which is also what saekit writes."""

from __future__ import annotations

from dataclasses import dataclass

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.layout import CFG_FILE, SPARSITY_FILE, WEIGHTS_FILE
from saekit_core.sae.legacy import upgrade_flat_config
from saekit_core.sae.metadata import METADATA_KEYS


@dataclass(frozen=True)
class SAELens(FolderFormat):
    """``cfg.json`` (flat before version 6) and ``sae_weights.safetensors``."""

    name: str = "saelens"
    required: tuple[str, ...] = (CFG_FILE, WEIGHTS_FILE)
    mark: str = CFG_FILE
    beside: tuple[str, ...] = (SPARSITY_FILE,)

    def read(self, files: Files) -> Reading:
        values = files.settings(CFG_FILE).values
        if "metadata" not in values:
            values = upgrade_flat_config(values, metadata_keys=METADATA_KEYS)
        return Reading(
            values, files.load(WEIGHTS_FILE), WEIGHTS_FILE, config_file=CFG_FILE, checked=False
        )
