"""The manifest: a TOML file that says which SAEs a server has.

::

    [sae."gpt2/8-res"]
    spec = "hf://user/repo/blocks.8.hook_resid_pre"
    revision = "0123456789ab"
    pin = true
    preload = true
    labels = { team = "safety" }
    watch_features = [17, 4042]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saekit_core.sae import SAEError, check_sae_id
from saekit_server.errors import DomainError, from_core, invalid, not_found
from saekit_server.registry.marks import Marks


class ManifestEntry(BaseModel):
    """One SAE of a manifest, under its sae_id."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    spec: str = Field(min_length=1)
    """Where it comes from: ``release/id``, ``hf://user/repo/path@revision``, ``file:folder``, or
    a folder under the SAE root."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{12}$")
    """The only revision that will do; default: whatever the spec leads to."""
    pin: bool = False
    """Never moved out of memory, and kept beside later revisions."""
    preload: bool = True
    """Whether its weights are in memory from the start. Otherwise it is checked at the start, and
    its weights come to memory when it is first asked for."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Shown with the SAE."""
    watch_features: list[int] = Field(default_factory=list)
    """Features whose firing on the traffic is counted in the metrics."""

    @property
    def marks(self) -> Marks:
        return Marks(self.pin, dict(self.labels), tuple(self.watch_features), self.revision)


@dataclass(frozen=True)
class ManifestFile:
    """What a manifest says."""

    entries: dict[str, ManifestEntry] = field(default_factory=dict)
    """By sae_id."""
    broken: dict[str, DomainError] = field(default_factory=dict)
    """Entries that say something impossible, by the name that they have in the file."""


def read_manifest(path: Path) -> ManifestFile:
    """Read a manifest.

    Raises:
        DomainError: NOT_FOUND; INVALID_ARGUMENT if it is no TOML, or has keys beside ``sae``.
            An entry that is wrong in itself is among `broken` instead.
    """
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise not_found(f"{path}: {error.strerror}", field="manifest") from error
    except ValueError as error:  # of the decoding, or of the TOML
        raise invalid("manifest", f"{path}: {error}") from error
    unknown = sorted(values.keys() - {"sae"})
    if unknown:
        raise invalid("manifest", f"{path}: {unknown[0]}: not a key of a manifest, which has sae")
    tables = values.get("sae", {})
    if not isinstance(tables, dict):
        raise invalid("manifest", f"{path}: sae: expected tables [sae.NAME]")
    entries: dict[str, ManifestEntry] = {}
    broken: dict[str, DomainError] = {}
    for sae_id, table in tables.items():
        try:
            check_sae_id(sae_id)
            entries[sae_id] = ManifestEntry.model_validate(table)
        except SAEError as error:
            broken[sae_id] = from_core(error).at(f'sae."{sae_id}"')
        except ValidationError as error:
            broken[sae_id] = _bad_entry(path, sae_id, error)
    return ManifestFile(entries, broken)


def _bad_entry(path: Path, sae_id: str, error: ValidationError) -> DomainError:
    first = error.errors(include_url=False)[0]
    key = ".".join((f'sae."{sae_id}"', *(str(part) for part in first["loc"])))
    return invalid(key, f"{path}: {first['msg']}, got {first['input']!r:.80}")
