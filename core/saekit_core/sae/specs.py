"""Where an SAE comes from, written in one line: ``[NAME=]SPEC``.

| SPEC                            | means                                  | default sae_id      |
|---------------------------------|----------------------------------------|---------------------|
| ``release/id@revision``         | an SAE of a public release             | ``release/id``      |
| ``hf://user/repo/path@revision``| a place in a Hugging Face repository   | ``user/repo/path``  |
| ``file:folder``                 | a folder under the SAE root            | ``folder``          |
| ``folder``                      | the same as ``file:folder``            | ``folder``          |

``@revision`` is a branch, tag or commit of the repository, and may be left out. A spec is of the
first kind if its first segment is a release in `saekit_core.directory`.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from saekit_core.directory import public_releases
from saekit_core.sae.errors import SAEError, SAENotFoundError
from saekit_core.sae.origin import Origin
from saekit_core.sae.release_origins import release_origin, repo_origin

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


class ResolvedSAE(NamedTuple):
    """A spec whose files are here."""

    sae_id: str
    """Name inside a server."""
    path: Path
    """The local folder, or the file that is the SAE."""
    origin: Origin
    """What is known besides the files."""


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


def parse_spec(text: str, *, releases: Container[str] | None = None) -> SAESpec:
    """Parse ``[NAME=]SPEC``.

    Args:
        releases: names of known releases; None: those of the directory.

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
    release, slash, rest = spec.partition("/")
    if slash and release in (public_releases() if releases is None else releases):
        path, revision = _split_revision(rest)
        return SAESpec("release", check_sae_id(path), label, release, revision)
    return SAESpec("file", check_sae_id(spec), label)


def resolve_spec(spec: SAESpec, root: str | Path) -> ResolvedSAE:
    """The files of a spec; fetches them from Hugging Face if that is where they are.

    Args:
        root: the SAE root, under which local folders lie.

    Raises:
        SAENotFoundError: there is no such folder, repository or release, or no such SAE in it.
    """
    if spec.kind == "file":
        folder = Path(root) / spec.path
        if not folder.exists():
            raise SAENotFoundError(
                f"{spec.path}: no such folder under the SAE root{_hint(spec.path)}", field="spec"
            )
        return ResolvedSAE(spec.sae_id, folder, Origin())
    if spec.source is None:
        raise SAEError("spec: no repository", field="spec")
    from saekit_core.sae.pretrained import download_sae

    known = release_origin if spec.kind == "release" else repo_origin
    origin = known(spec.source, spec.path)
    return ResolvedSAE(spec.sae_id, download_sae(origin, revision=spec.revision), origin)


def _hint(path: str) -> str:
    if path not in public_releases():
        return ""
    example = next(iter(public_releases()[path].entries.values()))
    return f"; for an SAE of the release of that name add its id, as {example.spec}"


def _parse_hf(spec: str, label: str | None) -> SAESpec:
    place, revision = _split_revision(spec.removeprefix("hf://"))
    parts = check_sae_id(place).split("/")
    if len(parts) < 2:
        raise SAEError(f"spec: {spec!r:.80} lacks user/repo after hf://", field="spec")
    return SAESpec("hf", "/".join(parts[2:]), label, "/".join(parts[:2]), revision)


def _split_revision(text: str) -> tuple[str, str | None]:
    place, at, revision = text.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise SAEError(f"spec: {revision!r:.80} is no revision", field="revision")
    return place, revision if at else None
