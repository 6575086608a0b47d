"""What the directory of public releases knows of an SAE, as its origin."""

from __future__ import annotations

from typing import Final

from saekit_core.directory import Entry, Release, public_releases
from saekit_core.directory.families import natural_key
from saekit_core.directory.search import near
from saekit_core.sae.errors import SAENotFoundError
from saekit_core.sae.origin import Origin

_SEARCH: Final = "`saekit saes search` finds SAEs"


def release_origin(release: str, sae_id: str) -> Origin:
    """The origin of an SAE of a known release.

    Raises:
        SAENotFoundError: there is no such release, or it has no such SAE; with near names.
    """
    directory = public_releases()
    if release not in directory:
        raise SAENotFoundError(
            f"{release}: no such release{_near(near(release, directory))}; {_SEARCH}",
            field="release",
        )
    entry = directory[release].entries.get(sae_id)
    if entry is None:
        raise _no_such_sae(directory[release], sae_id)
    return _origin(entry)


def repo_origin(repo: str, path: str) -> Origin:
    """The origin of a path in a Hugging Face repository, with the directory's facts if it has any.

    What a release states of its files (a norm scaling factor, say) holds by whatever name they are
    asked for.
    """
    entry = public_releases().at(repo, path)
    return Origin(repo=repo, path=path) if entry is None else _origin(entry)


def _origin(entry: Entry) -> Origin:
    return Origin(
        format=entry.format,
        repo=entry.repo,
        path=entry.path,
        release=entry.release,
        sae_id=entry.sae_id,
        model_name=entry.model,
        neuronpedia_id=entry.neuronpedia_id,
        norm_scaling_factor=entry.norm_scaling_factor,
        config_overrides=entry.config_overrides,
    )


def _no_such_sae(release: Release, sae_id: str) -> SAENotFoundError:
    known = sorted(release.entries, key=natural_key)
    close = near(sae_id, known)
    asked = f"no SAE {sae_id!r:.80}" if sae_id else "no sae_id given"
    named = _near(close) if close else f"; it has {', '.join(known[:3])}"
    return SAENotFoundError(
        f"{release.name}: {asked}{named}; "
        f"`saekit saes search --release {release.name}` lists all {len(known)}",
        field="sae_id",
    )


def _near(names: list[str]) -> str:
    return f"; near: {', '.join(names)}" if names else ""
