"""Files of a Hugging Face repository: listed, fetched into the standard cache, or found there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # for HTTPError
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    # The base of all that the HTTP client raises, whose own name differs between versions.
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saekit_core.sae.errors import SAENotFoundError


class RepoFiles:
    """One revision of a repository ``user/repo``.

    Its cache, address, token and offline mode are those of huggingface_hub, and so are the bars
    that show the progress of a download. Without the network, what the cache holds is all there is.

    Args:
        revision: branch, tag or commit; None: the default branch.
        force: fetch again what the cache has.

    Raises:
        SAENotFoundError: from every method, in one line: repository, revision or file do not exist,
            or cannot be reached.
    """

    def __init__(self, repo: str, revision: str | None, *, force: bool = False) -> None:
        self._repo = repo
        self._revision = revision
        self._force = force
        self._all: list[str] | None = None
        self.offline = False
        """Whether the network was needed and missing, so that the cache was all there is."""

    def listing(self, folder: str) -> list[str]:
        """Names of all files below a folder, relative to it; "" for the whole repository.

        Nothing, if there is no such folder.
        """
        prefix = f"{folder}/" if folder else ""
        return sorted(n.removeprefix(prefix) for n in self._names(folder) if n.startswith(prefix))

    def fetch(self, names: Iterable[str]) -> Path:
        """The repository's local folder, with the named files in it, all of one commit."""
        revision, local = self._revision, Path()
        for name in names:
            try:
                with self._explained(name):
                    file = hf_hub_download(
                        self._repo, name, revision=revision, force_download=self._force
                    )
            except _UnreachableError:
                raise self.unreachable(name) from None
            # The cache keeps .../snapshots/COMMIT/name. A branch may move on between two files,
            # and one that is there already costs no request when its commit is named.
            local = Path(file).parents[name.count("/")]
            revision = local.name
        return local

    def unreachable(self, name: str) -> SAENotFoundError:
        """What to do about a file that is neither in the cache nor to be had."""
        return self._error(
            name,
            "not in the local Hugging Face cache, and the network cannot be reached; connect, or "
            "copy the folder here and load it from disk",
        )

    def _names(self, wanted: str) -> list[str]:
        """Every file of the repository; `wanted` is what messages name."""
        if self._all is None:
            try:
                with self._explained(wanted):
                    info = HfApi().model_info(self._repo, revision=self._revision)
                self._all = [sibling.rfilename for sibling in info.siblings or ()]
            except _UnreachableError:
                self.offline = True
                self._all = self._cached()
        return self._all

    def _cached(self) -> list[str]:
        try:
            local = Path(
                snapshot_download(self._repo, revision=self._revision, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            return []
        return [file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file()]

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what huggingface_hub raises into one line."""
        try:
            yield
        except RepositoryNotFoundError:
            raise self._error(
                name, "no such repository, or a private one that needs a token (HF_TOKEN)"
            ) from None
        except RevisionNotFoundError:
            raise self._error(name, "the repository has no such revision") from None
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            raise _UnreachableError from None
        except EntryNotFoundError:
            raise self._error(name, "the repository has no such file") from None
        except HFValidationError as error:
            raise self._error(name, str(error)) from None
        except HfHubHTTPError as error:
            status, said = error.response.status_code, error.server_message or ""
            raise self._error(name, f"the Hub answered {status} {said}") from None
        except (HTTPError, ConnectionError, TimeoutError):
            raise _UnreachableError from None
        except OSError as error:
            raise self._error(name, f"cannot be kept in the cache: {error}") from None

    def _error(self, name: str, problem: str) -> SAENotFoundError:
        where = f"hf://{self._repo}/{name}".rstrip("/")
        at = f"@{self._revision}" if self._revision else ""
        return SAENotFoundError(f"{where}{at}: {' '.join(problem.split())}")


class _UnreachableError(Exception):
    """The network is needed, and missing."""
