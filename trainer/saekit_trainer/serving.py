"""How to use an SAE folder, in words that can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path


def serve_command(folder: Path, model_name: str | None, root: Path | None = None) -> str:
    """The shell command that serves the SAE of `folder`.

    Args:
        folder: absolute.
        model_name: as in the configuration; None for the embedded model.
        root: a folder of SAEs above it, all of which are served and followed; without it, this SAE
            alone is.
    """
    words = ["saekit", "serve"]
    if model_name is not None:
        words += ["--model", model_name]
    if root is not None:
        return shlex.join([*words, "--sae-dir", str(root), "--watch"])
    return shlex.join([*words, "--sae-dir", str(folder.parent), "--sae", folder.name])
