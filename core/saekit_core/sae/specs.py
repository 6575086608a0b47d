"""Where an SAE comes from, written in one line: ``[NAME=]SPEC``.

| SPEC                            | means                                  | default sae_id      |
|---------------------------------|----------------------------------------|---------------------|
| ``hf://user/repo/path@revision``| a folder of a Hugging Face repository  | ``user/repo/path``  |
| ``file:folder``                 | a folder under the SAE root            | ``folder``          |
| ``release/id``                  | an SAE of a known release              | ``release/id``      |
| ``folder``                      | the same as ``file:folder``            | ``folder``          |
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from saekit_core.sae.errors import SAEError, SAENotFoundError

SAE_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
MAX_SAE_ID_LENGTH: Final = 256
_REVISION: Final = re.compile(r"[A-Za-z0-9._/-]+")

Kind = Literal["release", "hf", "file"]


@dataclass(frozen=True)
class SAESpec:
    """A parsed spec."""

    kind: Kind
    path: str
    """Folder under the SAE root or in the repository ("" for its root), or id in the release."""
    name: str | None = None
    """The sae_id asked for; None for the default."""
    source: str | None = None
    """``user/repo``, or the release."""
    revision: str | None = None
    """Branch, tag or commit of the repository."""

    @property
    def sae_id(self) -> str:
        """The name of the SAE inside a server."""
        if self.name is not None:
            return self.name
        return "/".join(part for part in (self.source, self.path) if part)


def check_sae_id(sae_id: str) -> str:
    """Return `sae_id` if it is one.

    It consists of segments of ``[A-Za-z0-9._-]`` between single slashes, none of them ``.``,
    without ``..`` anywhere; so as a path it never leaves the folder that it is joined to.

    Raises:
        SAEError: it is not.
    """
    if (
        len(sae_id) > MAX_SAE_ID_LENGTH
        or not SAE_ID_PATTERN.fullmatch(sae_id)
        or ".." in sae_id
        or "." in sae_id.split("/")
    ):
        raise SAEError(
            f"sae_id: {sae_id!r:.80} is none; expected at most {MAX_SAE_ID_LENGTH} of "
            "[A-Za-z0-9._/-] without '..', empty segments, or a slash at either end",
            field="sae_id",
        )
    return sae_id


def parse_spec(text: str, *, releases: Container[str] = ()) -> SAESpec:
    """Parse ``[NAME=]SPEC``.

    Args:
        releases: names of known releases; a bare spec whose first segment is one is of that kind.

    Raises:
        SAEError: it is malformed.
    """
    name, equals, spec = text.partition("=")
    if not equals:
        name, spec = "", text
    elif not name:
        raise SAEError(f"spec: {text!r:.80} has no name before '='", field="sae_id")
    label = check_sae_id(name) if equals else None
    if spec.startswith("hf://"):
        return _parse_hf(spec, label)
    if spec.startswith("file:"):
        return SAESpec("file", check_sae_id(spec.removeprefix("file:")), label)
    release, slash, path = spec.partition("/")
    if slash and release in releases:
        return SAESpec("release", check_sae_id(path), label, source=release)
    return SAESpec("file", check_sae_id(spec), label)


def resolve_spec(spec: SAESpec, root: str | Path) -> tuple[str, Path]:
    """The sae_id and the local folder of a spec; fetches it from Hugging Face if it is there.

    Args:
        root: the SAE root, under which local folders lie.

    Raises:
        SAENotFoundError: there is no such folder, repository or release.
    """
    if spec.kind == "hf":
        from saekit_core.sae.pretrained import download_sae

        if spec.source is None:
            raise SAEError("spec: no repository", field="spec")
        return spec.sae_id, download_sae(spec.source, spec.path, revision=spec.revision)
    if spec.kind == "release":
        raise SAENotFoundError(f"{spec.sae_id}: the release {spec.source} is not known")
    folder = Path(root) / spec.path
    if not folder.exists():
        raise SAENotFoundError(f"{spec.path}: no such folder under the SAE root", field="spec")
    return spec.sae_id, folder


def _parse_hf(spec: str, label: str | None) -> SAESpec:
    place, at, revision = spec.removeprefix("hf://").partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise SAEError(f"spec: {revision!r:.80} is no revision", field="revision")
    parts = check_sae_id(place).split("/")
    if len(parts) < 2:
        raise SAEError(f"spec: {spec!r:.80} lacks user/repo after hf://", field="spec")
    return SAESpec("hf", "/".join(parts[2:]), label, "/".join(parts[:2]), revision if at else None)
