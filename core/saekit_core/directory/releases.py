"""The public releases of SAEs, and what is known of each SAE besides its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from saekit_core.directory.families import Family, unpack

DATA_FILE: Final = "releases.json"
NEURONPEDIA: Final = "https://neuronpedia.org"

_LAYER: Final = re.compile(
    r"\bblocks\.(\d+)\."  # a hook point's name
    r"|(?:^|[/_.])layer_?(\d+)(?![\d])"  # layer_12, layer12
    r"|^l(\d+)[a-z]?_"  # l12r_8x
)


class Entry(NamedTuple):
    """One SAE of a release."""

    release: str
    sae_id: str
    repo: str
    """Hugging Face repository ``user/repo``."""
    path: str
    """Folder or file in it, or what its format takes for one."""
    format: str
    """Name of its format in `saekit_core.sae.formats`."""
    model: str
    """The model that it was trained on, as TransformerLens or Hugging Face names it."""
    neuronpedia_id: str | None = None
    """``model/source``, where Neuronpedia shows its features."""
    l0: float | None = None
    """Mean number of active features, as its makers state it."""
    variance_explained: float | None = None
    """As its makers state it."""
    norm_scaling_factor: float | None = None
    """Activations are multiplied by this before encoding, and reconstructions divided by it."""
    config_overrides: Mapping[str, Any] = MappingProxyType({})
    """Keys of the configuration that the release states otherwise than the files."""

    @property
    def spec(self) -> str:
        """How the server's ``--sae``, manifest and LoadSAE name it."""
        return f"{self.release}/{self.sae_id}"

    @property
    def url(self) -> str | None:
        """Its page on Neuronpedia."""
        return f"{NEURONPEDIA}/{self.neuronpedia_id}" if self.neuronpedia_id else None

    @property
    def layer(self) -> int | None:
        """The layer that its id or its path names; None for an embedding."""
        found = _LAYER.search(self.sae_id) or _LAYER.search(self.path)
        return int(found[found.lastindex or 0]) if found else None


@dataclass(frozen=True)
class Release:
    """SAEs that were published together."""

    name: str
    repo: str
    format: str
    model: str
    config_overrides: Mapping[str, Any]
    families: tuple[Family, ...] = field(repr=False)

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """By id."""
        return {entry.sae_id: entry for family in self.families for entry in self._of(family)}

    def _of(self, family: Family) -> Iterator[Entry]:
        facts = unpack(family)
        nothing = [None] * len(facts["id"])
        return map(
            Entry,
            repeat(self.name),
            facts["id"],
            repeat(self.repo),
            facts["path"],
            repeat(self.format),
            repeat(self.model),
            facts.get("neuronpedia_id", nothing),
            *(map(float, facts[name]) if name in facts else nothing for name in NUMBERS),
            repeat(self.config_overrides),
        )


NUMBERS: Final = ("l0", "variance_explained", "norm_scaling_factor")
"""The facts of an SAE that are numbers, in the order in which `Entry` has them."""


class Directory(Mapping[str, Release]):
    """Releases by name."""

    def __init__(self, packed: Mapping[str, Mapping[str, Any]]) -> None:
        """Wrap the content of a `DATA_FILE`."""
        self._releases = {
            name: Release(
                name=name,
                repo=facts["repo"],
                format=facts["format"],
                model=facts["model"],
                config_overrides=facts.get("config_overrides", {}),
                families=tuple(facts["saes"]),
            )
            for name, facts in packed.items()
        }

    @classmethod
    def parse(cls, text: str) -> Directory:
        """The directory in the text of a `DATA_FILE`."""
        return cls(json.loads(text))

    def __getitem__(self, name: str) -> Release:
        return self._releases[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._releases)

    def __len__(self) -> int:
        return len(self._releases)

    def at(self, repo: str, path: str) -> Entry | None:
        """The SAE at a place, whichever release it belongs to.

        Where several releases list the same files, one with a page on Neuronpedia is preferred;
        what changes numbers they state alike.
        """
        found = [
            entry
            for release in self.values()
            if release.repo == repo
            for entry in release.entries.values()
            if entry.path == path
        ]
        return next((entry for entry in found if entry.neuronpedia_id), next(iter(found), None))


@cache
def public_releases() -> Directory:
    """The directory that is shipped; read when it is first asked for."""
    return Directory.parse(Path(__file__).with_name(DATA_FILE).read_text(encoding="utf-8"))
