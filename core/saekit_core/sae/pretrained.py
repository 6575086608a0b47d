"""Pretrained SAEs: of public releases, of Hugging Face repositories, and of local folders."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from pathlib import Path

import torch

from saekit_core.directory import public_releases
from saekit_core.sae.disk import read_sae_folder
from saekit_core.sae.errors import SAEError, SAENotFoundError
from saekit_core.sae.formats import FORMATS, Format, members
from saekit_core.sae.origin import Origin
from saekit_core.sae.release_origins import release_origin, repo_origin
from saekit_core.sae.repo_files import RepoFiles
from saekit_core.sae.sae import SAE

Attempt = tuple[Format, tuple[str, str | None]]
"""A format that an SAE may be of, its folder, and its file (None: it has the folder to itself)."""


def load_pretrained(
    release: str,
    sae_id: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    force_download: bool = False,
) -> SAE:
    """The SAE ``sae_id`` of a release, a repository ``user/repo``, or a local folder.

    Args:
        release: a local folder (or file, with "" for the id); else a release of the directory;
            else a repository.
        sae_id: id in the release; path in the repository or folder, "" if it is the SAE itself.
        dtype: number type to convert to; None keeps that of the files.
        revision: branch, tag or commit of the repository.
        force_download: fetch again what the cache has.

    Raises:
        SAENotFoundError: nothing is there, or the network is needed and missing.
        SAEFormatError: what is there is broken.
        SAEError: a revision of a local folder, or a path that leaves the repository.
    """
    if Path(release).exists():
        if revision is not None:
            raise SAEError(f"revision: {release} is local and has none", field="revision")
        return read_sae_folder(Path(release) / sae_id, device=device, dtype=dtype)
    if release.count("/") == 1 and release not in public_releases():
        origin = repo_origin(release, _checked(sae_id))
    elif "/" in release:
        raise SAENotFoundError(
            f"{release}: neither a local folder nor a Hugging Face repository user/repo; the path "
            "in a repository is the sae_id",
            field="release",
        )
    else:
        origin = release_origin(release, sae_id)
    path = download_sae(origin, revision=revision, force=force_download)
    return read_sae_folder(path, device=device, dtype=dtype, origin=origin)


def download_sae(origin: Origin, *, revision: str | None = None, force: bool = False) -> Path:
    """Fetch the files of an SAE into the standard Hugging Face cache, or find them there.

    Args:
        origin: names the repository and the place in it; without a format, the files that any
            format has a use for are fetched.
        revision: branch, tag or commit.
        force: fetch again what the cache has.

    Returns:
        The local folder, or the file if that is what the origin names.

    Raises:
        SAENotFoundError: repository, revision or SAE do not exist, or cannot be reached.
    """
    if origin.repo is None:
        raise SAEError("repo: missing from the origin", field="repo")
    files = RepoFiles(origin.repo, revision, force=force)
    folder, file, names = _find(files, origin)
    local = files.fetch(posixpath.join(folder, name) for name in names) / folder
    return local if file is None else local / file


def _find(files: RepoFiles, origin: Origin) -> tuple[str, str | None, list[str]]:
    """Where an SAE is: its folder, its file in it (None: all of the folder), the files to fetch."""
    path = origin.path
    attempts: list[Attempt]
    if origin.format is not None:
        attempts = [(FORMATS[origin.format], FORMATS[origin.format].locate(path))]
    else:
        formats = FORMATS.values()
        # The path may name a folder, also of a single file, or the file itself.
        attempts = [(format, (path, None)) for format in formats]
        attempts += [(format, format.locate(path)) for format in formats]
    listings: dict[str, list[str]] = {}
    names: set[str] = set()
    found: tuple[str, str | None] | None = None
    for format, place in attempts:
        if found not in (None, place):
            break
        folder, file = place
        if folder not in listings:
            listings[folder] = files.listing(folder)
        if format.files(listings[folder], file):
            found = place
            names |= {name for name in listings[folder] if format.wanted(name, file)}
    if found is not None:
        return *found, sorted(names)
    if files.offline:
        raise files.unreachable(path)
    raise SAENotFoundError(_nothing(origin, attempts, listings))


def _nothing(origin: Origin, attempts: Iterable[Attempt], listings: dict[str, list[str]]) -> str:
    """Why there is no SAE at a place that could be looked at."""
    where = f"hf://{origin.repo}/{origin.path}".rstrip("/")
    several = [name for name in members(listings.get(origin.path, ())) if name is not None]
    if len(several) > 1:
        shown = ", ".join(several[:3]) + (", …" if len(several) > 3 else "")
        return f"{where}: holds {len(several)} SAEs, add the name of one: {shown}"
    if any(
        listings[folder] if file is None else file in listings[folder]
        for _, (folder, file) in attempts
    ):
        return f"{where}: no SAE of {origin.format or 'any known'} format there"
    return f"{where}: the repository has no such folder or file"


def _checked(path: str) -> str:
    """A path in a repository, which must not lead out of it."""
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise SAEError(f"sae_id: {path!r:.80} is no path in a repository", field="sae_id")
    return path
