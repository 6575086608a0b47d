"""From a spec to a local folder, without leaving the SAE root unless the operator says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saekit_core.sae import (
    Origin,
    SAEError,
    SAEFormatError,
    SAESpec,
    check_sae_id,
    parse_spec,
    resolve_spec,
)
from saekit_core.sae.formats import answer_paths
from saekit_server.errors import DomainError, from_core, invalid, not_found

_ANYWHERE: Final = ("file:/", "file:./", "file:../", "file:~")
"""How a spec begins that names a folder of the machine, not one below the SAE root."""


@dataclass(frozen=True)
class Source:
    """Where an SAE comes from and what it is to be called."""

    spec: str
    """Without a name before it; ``file:folder`` for every folder below the SAE root."""
    sae_id: str
    folder: Path
    """Or the file, where an SAE is one."""
    origin: Origin | None = None
    """What is known of it besides its files."""


def resolve_source(source: str, *, sae_id: str | None, root: Path | None, trusted: bool) -> Source:
    """The folder of ``[NAME=]SPEC``; fetches it if it is elsewhere.

    Args:
        source: as `saekit_core.sae.specs` describes it; from the operator also ``file:`` with an
            absolute path, or a relative one that begins with ``./`` or ``../``.
        sae_id: name in this server; default: NAME, or what the spec implies.
        root: the SAE root.
        trusted: whether it comes from the operator, not over the wire.

    Raises:
        DomainError: INVALID_ARGUMENT for a malformed spec or one that leads out of the root;
            NOT_FOUND if nothing is there.
    """
    name, equals, rest = source.partition("=")
    if not equals:
        name, rest = "", source
    wanted = sae_id or (name if equals else None)
    if wanted is not None:
        _check_id(wanted, "sae_id" if sae_id else "source")
    elif equals:
        raise invalid("source", f"{source!r:.120} has no name before '='")
    if trusted and rest.startswith(_ANYWHERE):
        folder = _resolved(Path(rest.removeprefix("file:")).expanduser())
        if not folder.exists():
            raise not_found(f"{rest}: no such folder", field="source")
        top = root.resolve() if root is not None else None
        if top is None or top == folder or not folder.is_relative_to(top):
            return Source(rest, wanted or _check_id(folder.name, "source"), folder)
        rest = f"file:{folder.relative_to(top).as_posix()}"
    try:
        spec = parse_spec(rest)
    except SAEError as error:
        raise from_core(error).at("source") from error
    if spec.kind == "file" and root is None:
        raise not_found(f"{rest}: this server has no SAE root to look in", field="source")
    try:
        default, folder, origin = resolve_spec(spec, root or Path())
    except SAEError as error:
        raise from_core(error).at("source") from error
    if spec.kind == "file" and root is not None:
        _check_inside(folder, root, spec)
        rest = f"file:{spec.path}"
    return Source(rest, wanted or default, _resolved(folder), origin)


def _resolved(path: Path) -> Path:
    # A file keeps its name, which says what it is; in the Hugging Face cache it is a link.
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def _check_id(sae_id: str, field: str) -> str:
    try:
        return check_sae_id(sae_id)
    except SAEError as error:
        raise from_core(error).at(field) from error


def _check_inside(folder: Path, root: Path, spec: SAESpec) -> None:
    """Refuse a folder, or a file of the SAE, that a symbolic link leads out of the root to."""
    top = root.resolve()
    try:
        files = answer_paths(folder)
    except (SAEFormatError, OSError):
        files = ()  # the reader says what is wrong
    for place in (folder, *files):
        if not place.resolve().is_relative_to(top):
            raise DomainError(
                "INVALID_ARGUMENT", f"{spec.path}: leads out of the SAE root", field="source"
            )
