"""The model card of a repository of SAEs: what is in it, and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.neuronpedia import sae_url

CARD_FILE: Final = "README.md"

_HEADER: Final = """\
---
library_name: saekit
tags:
- saekit
- saelens
- sparse-autoencoder
- mechanistic-interpretability
---
"""
_COLUMNS: Final = (
    "SAE",
    "model",
    "hook point",
    "architecture",
    "d_in",
    "d_sae",
    "dtype",
    "L0",
    "explained variance",
)
_LEFT: Final = 4
"""The columns before this one hold words, the others numbers."""


@dataclass(frozen=True)
class UploadedSAE:
    """One SAE of an upload."""

    path: str
    """Folder in the repository; "" for its root."""
    revision: str
    """As `folder_revision`; the one that a server will name."""
    cfg: SAEConfig
    l0: float | None
    """Recorded mean number of active features per token."""
    explained_variance: float | None
    """Recorded explained variance."""
    files: tuple[str, ...]
    """Names of its files."""


def model_card(
    repo_id: str, branch: str, rows: Sequence[UploadedSAE], others: Sequence[str]
) -> str:
    """A ``README.md`` with the metadata block that the Hub reads.

    Args:
        others: folders of SAEs that the repository has besides.
    """
    parts = [
        _HEADER,
        f"# {repo_id.partition('/')[2]}",
        "Sparse autoencoders (SAEs) in SAELens' format.",
        _table(rows),
    ]
    if others:
        parts.append("Also in this repository: " + ", ".join(f"`{o or '.'}`" for o in others) + ".")
    parts += ["## Load", _saekit(repo_id, branch, rows[0].path)]
    # sae-lens reads a folder of the main branch only.
    if rows[0].path and branch == "main":
        parts.append(_saelens(repo_id, rows[0].path))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(rows: Sequence[UploadedSAE]) -> str:
    rule = ["---"] * _LEFT + ["---:"] * (len(_COLUMNS) - _LEFT)
    return "\n".join(_line(cells) for cells in (_COLUMNS, rule, *map(_cells, rows)))


def _cells(row: UploadedSAE) -> list[str]:
    cfg = row.cfg
    name = f"`{row.path or '.'}`"
    url = sae_url(cfg)
    hook = cfg.hook_name or ""
    if cfg.metadata.hook_name_out not in (None, hook):
        hook += f" → {cfg.metadata.hook_name_out}"
    return [
        f"[{name}]({url})" if url else name,
        _text(cfg.model_name),
        _text(hook),
        cfg.architecture,
        str(cfg.d_in),
        str(cfg.d_sae),
        cfg.dtype,
        "–" if row.l0 is None else f"{row.l0:.1f}",
        "–" if row.explained_variance is None else f"{row.explained_variance:.3f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(value: str | None) -> str:
    """Words of the metadata as a cell, which they must not break out of."""
    plain = " ".join((value or "").split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("<", "&lt;").replace("[", "\\[") or "–"


def _saekit(repo_id: str, branch: str, path: str) -> str:
    arguments = [f'"{repo_id}"', *([f'"{path}"'] if path else [])]
    at = "" if branch == "main" else f"@{branch}"
    if at:
        arguments.append(f'revision="{branch}"')
    spec = f"hf://{repo_id}/{path}".rstrip("/") + at
    return (
        "With saekit:\n\n"
        "```python\n"
        "from saekit_core.sae import SAE\n\n"
        f"sae = SAE.from_pretrained({', '.join(arguments)})\n"
        "```\n\n"
        "On a server of the model, for gRPC clients:\n\n"
        "```sh\n"
        f"saekit serve --model MODEL --sae {spec}\n"
        "```"
    )


def _saelens(repo_id: str, path: str) -> str:
    return (
        "With SAELens:\n\n"
        "```python\n"
        "from sae_lens import SAE\n\n"
        f'sae = SAE.from_pretrained("{repo_id}", "{path}")\n'
        "```"
    )
