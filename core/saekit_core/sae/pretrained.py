"""Pretrained SAEs from Hugging Face repositories and local folders."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saekit_core.sae.disk import read_sae_folder
from saekit_core.sae.errors import SAENotFoundError
from saekit_core.sae.layout import (
    CFG_FILE,
    FEATURE_ARRAYS_FILE,
    FEATURES_FILE,
    SPARSITY_FILE,
    WEIGHTS_FILE,
)
from saekit_core.sae.sae import SAE
from saekit_core.sae.specs import check_sae_id

_OPTIONAL: Final = (SPARSITY_FILE, FEATURES_FILE, FEATURE_ARRAYS_FILE)


def load_pretrained(
    release: str,
    sae_id: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
) -> SAE:
    """The SAE ``sae_id`` of a local folder or of a Hugging Face repository ``user/repo``.

    Args:
        sae_id: path of the SAE's folder in the release; "" if the release is the SAE itself.
        revision: branch, tag or commit of the repository.

    Raises:
        SAENotFoundError: nothing is there, or the network is needed and missing.
        SAEFormatError: what is there is broken.
    """
    if Path(release).is_dir():
        return read_sae_folder(Path(release) / sae_id, device=device, dtype=dtype)
    if release.count("/") != 1:
        raise SAENotFoundError(
            f"{release}: neither a local folder nor a Hugging Face repository user/repo",
            field="release",
        )
    folder = download_sae(release, sae_id, revision=revision)
    return read_sae_folder(folder, device=device, dtype=dtype)


def download_sae(repo: str, path: str, *, revision: str | None = None) -> Path:
    """Fetch an SAE folder into the standard Hugging Face cache, or find it there.

    The cache's location, the token and offline mode are those of huggingface_hub.

    Args:
        repo: ``user/repo``.
        path: the folder in it; "" for the repository itself.
        revision: branch, tag or commit.

    Returns:
        The local folder.

    Raises:
        SAENotFoundError: repository, revision or folder do not exist, or cannot be reached.
    """
    if path:
        check_sae_id(path)
    prefix = f"{path}/" if path else ""
    where = f"hf://{repo}/{path}".rstrip("/") + (f"@{revision}" if revision else "")
    cfg = _fetch(repo, prefix + CFG_FILE, revision, where)
    folder = cfg.parent
    # The cache keeps .../snapshots/COMMIT/path: the other files come from the same commit, and one
    # that is there already costs no request.
    commit = folder.parents[path.count("/")].name if path else folder.name
    _fetch(repo, prefix + WEIGHTS_FILE, commit, where)
    for name in _OPTIONAL:
        if try_to_load_from_cache(repo, prefix + name, revision=commit) is None:
            _fetch_if_any(repo, prefix + name, commit)
    return folder


def _fetch_if_any(repo: str, file: str, commit: str) -> None:
    # Offline, or when the repository has none, the SAE is complete without it.
    with suppress(EntryNotFoundError, OfflineModeIsEnabled):
        hf_hub_download(repo, file, revision=commit)


def _fetch(repo: str, file: str, revision: str | None, where: str) -> Path:
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise SAENotFoundError(
            f"{where}: {file} is not in the local Hugging Face cache and the network cannot be "
            "reached; connect, or copy the folder here and load it from disk"
        ) from None
    except RepositoryNotFoundError:
        raise SAENotFoundError(
            f"{where}: no such repository, or a private one that needs a token (HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise SAENotFoundError(f"{where}: the repository has no such revision") from None
    except EntryNotFoundError:
        raise SAENotFoundError(f"{where}: the repository has no file {file}") from None
    except HFValidationError as error:
        raise SAENotFoundError(f"{where}: {error}") from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SAENotFoundError(f"{where}: {file} could not be fetched: {reason}") from None
