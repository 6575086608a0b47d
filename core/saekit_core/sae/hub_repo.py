"""A model repository on the Hugging Face Hub, as far as an upload needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # for HTTPError
    HfHubHTTPError,
    HFValidationError,
    # The base of all that the HTTP client raises, whose own name differs between versions.
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    tqdm,
    validate_repo_id,
)

from saekit_core.sae.errors import SAEUploadError

T = TypeVar("T")
_TOKENS: Final = "https://huggingface.co/settings/tokens"
_OFFLINE: Final = "offline mode is on; to upload, unset HF_HUB_OFFLINE"


@dataclass(frozen=True)
class Head:
    """A branch as it was when an upload began."""

    commit: str
    private: bool
    """Whether the repository is."""
    files: frozenset[str]


class HubRepo:
    """One branch of a model repository.

    Location of the Hub, token and offline mode are those of huggingface_hub.

    Raises:
        SAEUploadError: there is no token, offline mode is on, or the repository cannot be named so.
    """

    def __init__(self, repo_id: str, branch: str, token: str | None) -> None:
        self._repo_id = repo_id
        self._branch = branch
        if constants.HF_HUB_OFFLINE:
            raise self._error(_OFFLINE)
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise self._error(str(error), field="repo_id") from None
        if "authorization" not in build_hf_headers(token=token):
            raise self._error(
                "uploading needs a token with write access: run `hf auth login`, set HF_TOKEN, or "
                f"pass token= ({_TOKENS})",
                field="token",
            )
        self._api = HfApi(token=token)

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._api.endpoint}/{self._repo_id}"

    def open(self, *, private: bool) -> Head:
        """The branch's head; the repository and the branch are made if they are missing.

        Raises:
            SAEUploadError: the Hub refuses, or the repository is public and `private` is set.
        """
        with self._explained():
            try:
                info = self._api.model_info(self._repo_id)
            except RepositoryNotFoundError:
                self._api.create_repo(self._repo_id, private=private or None)
                info = self._api.model_info(self._repo_id)
        if private and not info.private:
            raise self._error(
                "the repository exists and is public; make it private in its settings, or choose "
                "another",
                field="private",
            )
        with self._explained():
            if self._branch != constants.DEFAULT_REVISION:
                try:
                    info = self._api.model_info(self._repo_id, revision=self._branch)
                except RevisionNotFoundError:
                    self._api.create_branch(self._repo_id, branch=self._branch)
                    info = self._api.model_info(self._repo_id, revision=self._branch)
        files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        return Head(info.sha or "", bool(info.private), files)

    def commit(
        self,
        additions: Mapping[str, Path | bytes],
        deletions: Collection[str],
        *,
        parent: Head,
        message: str,
        before_commit: Callable[[], None],
    ) -> str:
        """Upload files and make them one commit on top of `parent`; returns the new head.

        Args:
            before_commit: called when all large files are there and nothing shows yet; what it
                raises leaves the branch as it was.

        Raises:
            SAEUploadError: the Hub refuses, or the branch has moved on since `parent`.
        """
        with self._explained():
            added = [CommitOperationAdd(name, content) for name, content in additions.items()]
            deleted = [CommitOperationDelete(name, is_folder=False) for name in sorted(deletions)]
            self._api.preupload_lfs_files(
                self._repo_id, added, revision=self._branch, free_memory=False
            )
        before_commit()
        with self._explained():
            made = self._api.create_commit(
                self._repo_id,
                [*added, *deleted],
                commit_message=message,
                revision=self._branch,
                parent_commit=parent.commit,
            )
        return made.oid

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            raise self._error(self._reason(error)) from None

    def _reason(self, error: Exception) -> str:
        # Uploads run in threads, which wrap what happened.
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if isinstance(error, OfflineModeIsEnabled):
            return _OFFLINE
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error)
        if isinstance(error, HTTPError | ConnectionError | TimeoutError):
            return (
                f"{self._api.endpoint} cannot be reached ({error}); check the network, the proxy "
                "(HTTPS_PROXY) and HF_ENDPOINT"
            )
        return str(error)

    def _refusal(self, error: HfHubHTTPError) -> str:
        status, said = error.response.status_code, error.server_message or ""
        if status == 401:
            return f"the Hub does not know the token; get one with write access at {_TOKENS}"
        if status == 403:
            owner = self._repo_id.partition("/")[0]
            return f"the token may not write for {owner}; get one that may at {_TOKENS} ({said})"
        if status in (409, 412):
            return f"somebody else changed the repository meanwhile; run it again ({said})"
        if status == 429:
            return f"too many requests; wait some minutes and run it again ({said})"
        return f"the Hub answered {status}: {said or error}"

    def _error(self, problem: str, *, field: str | None = None) -> SAEUploadError:
        return SAEUploadError(f"{self._repo_id}: {' '.join(problem.split())}", field=field)


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Without `shown`, hides huggingface_hub's progress bars meanwhile."""
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def progress(items: Collection[T], what: str) -> Iterable[T]:
    """The items, counted by a bar as huggingface_hub's are."""
    return tqdm(items, desc=what)  # type: ignore[no-untyped-call]
