"""Uploading SAEs to a Hugging Face repository, where `SAE.from_pretrained` finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from saekit_core.sae.disk import read_sae_folder, write_sae_folder
from saekit_core.sae.errors import SAEError, SAEFormatError, SAENotFoundError, SAEUploadError
from saekit_core.sae.features_file import FeaturesFile
from saekit_core.sae.layout import (
    CFG_FILE,
    FEATURE_ARRAYS_FILE,
    FEATURES_FILE,
    SPARSITY_FILE,
    WEIGHTS_FILE,
    check_finite,
)
from saekit_core.sae.model_card import CARD_FILE, UploadedSAE, model_card
from saekit_core.sae.owned import read_sae_folder_owned
from saekit_core.sae.revision import folder_revision
from saekit_core.sae.sae import SAE
from saekit_core.sae.specs import parse_spec

SAERef = SAE | Path | str
"""An SAE, or the folder of one."""
SAERefs = Mapping[str, SAERef] | Sequence[SAERef]

_FILES: Final = (CFG_FILE, WEIGHTS_FILE, SPARSITY_FILE, FEATURES_FILE, FEATURE_ARRAYS_FILE)
_MAPPING: Final = "give saes={folder: sae} (in a shell PATH=FOLDER)"


@dataclass(frozen=True)
class Upload:
    """What an upload left in the repository."""

    repo_id: str
    branch: str
    commit: str
    """The branch's head: the commit of this upload, or the older one that has all of it already."""
    url: str
    """The repository's page."""
    private: bool
    saes: tuple[UploadedSAE, ...]

    def spec(self, sae: UploadedSAE) -> str:
        """What `saekit serve --sae` takes for one of them."""
        at = "" if self.branch == "main" else f"@{self.branch}"
        return f"hf://{self.repo_id}/{sae.path}".rstrip("/") + at


def upload_saes_to_huggingface(
    saes_dict: SAERefs | None = None,
    hf_repo_id: str | None = None,
    hf_revision: str | None = None,
    show_progress: bool = True,
    add_default_readme: bool = True,
    *,
    saes: SAERefs | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    private: bool = False,
    replace_readme: bool = False,
    commit_message: str | None = None,
) -> Upload:
    """Put SAEs into a Hugging Face repository, all in one commit.

    Every SAE is first loaded back from the very files that are sent, with all values finite; if one
    fails, nothing is sent. SAEs in memory are written to the temporary folder (``TMPDIR``) for
    that. Only what inference needs is sent: ``cfg.json``, the weights, ``sparsity.safetensors`` and
    the features file, where there are any. An SAE that was there is replaced as a whole.

    The first five parameters are those of SAELens; ``saes``, ``repo_id`` and ``revision`` are other
    names of the first three.

    Args:
        saes_dict: ``{"folder/in/repo": sae_or_folder}`` ("" is the repository's root), or a list;
            an SAE of a list goes to a folder named after its hook point.
        hf_repo_id: ``user/repo``; made if it is missing.
        hf_revision: branch; made from main if it is missing. Default: main.
        show_progress: show progress bars on stderr.
        add_default_readme: add a model card, unless the repository has one.
        token: one with write access. Default: that of ``hf auth login`` or ``HF_TOKEN``.
        private: make the repository private; one that exists and is public is then refused.
            Otherwise a new one is what its namespace makes by default: public.
        replace_readme: write the model card even where there is one.
        commit_message: default: one that names the SAEs.

    Raises:
        SAEError: an argument names no SAE, folder or repository; naming it.
        SAEFormatError: a folder would not load again; naming folder, file and key.
        SAEUploadError: no token, no right, no network, or the Hub refuses.
    """
    from saekit_core.sae.hub_repo import HubRepo, progress, progress_bars

    given: SAERefs = _either("saes", saes, "saes_dict", saes_dict)
    named = _named(given)
    place: str = _either("repo_id", repo_id, "hf_repo_id", hf_repo_id)
    if revision is None and hf_revision is None:
        revision = "main"
    branch: str = _either("revision", revision, "hf_revision", hf_revision)
    if replace_readme and not add_default_readme:
        raise SAEError("replace_readme: needs add_default_readme", field="replace_readme")
    _check_names(place, named, branch)
    repo = HubRepo(place, branch, token)
    with progress_bars(shown=show_progress), _on_disk(named) as folders:
        checked = [
            _check(path, named[path], folder)
            for path, folder in progress(folders.items(), "Checking SAEs")
        ]
        head = repo.open(private=private)
        additions: dict[str, Path | bytes] = {
            _in_repo(item.path, name): folders[item.path] / name
            for item in checked
            for name in item.files
        }
        # What an older SAE had and this one has not would be taken for a part of it.
        possible = {_in_repo(item.path, name) for item in checked for name in _FILES}
        stale = (possible & head.files) - additions.keys()
        if add_default_readme and (replace_readme or CARD_FILE not in head.files):
            card = model_card(place, branch, checked, _other_saes(head.files, named))
            additions[CARD_FILE] = card.encode()

        def unchanged() -> None:
            for item in checked:
                folder = folders[item.path]
                if folder_revision(folder) != item.revision:
                    raise SAEUploadError(f"{folder}: changed while it was uploaded; run it again")

        commit = repo.commit(
            additions,
            stale,
            parent=head,
            message=commit_message or _message(named),
            before_commit=unchanged,
        )
    return Upload(place, branch, commit, repo.url, head.private, tuple(checked))


def _either(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The value of a parameter with two names."""
    if value is not None and other is not None:
        raise SAEError(f"{name}: give it or {other_name}, not both", field=name)
    given = other if value is None else value
    if given is None:
        raise SAEError(f"{name}: missing", field=name)
    return given


def _named(saes: SAERefs) -> dict[str, SAERef]:
    """Folder in the repository → SAE."""
    # An SAE is iterable too, for SAELens' sake.
    if isinstance(saes, SAE | str | Path) or not isinstance(saes, Mapping | Sequence):
        raise SAEError(
            f"saes: expected a list, or a mapping from folder to SAE, got {type(saes).__name__}",
            field="saes",
        )
    if not saes:
        raise SAEError("saes: there are none", field="saes")
    if isinstance(saes, Mapping):
        for path, ref in saes.items():
            _check_ref(ref, f"saes[{path!r}]")
        return dict(saes)
    named: dict[str, SAERef] = {}
    for i, ref in enumerate(saes):
        _check_ref(ref, f"saes[{i}]")
        hook = (ref if isinstance(ref, SAE) else read_sae_folder(ref)).cfg.hook_name
        if not hook:
            raise SAEError(
                f"saes[{i}]: has no hook_name to name its folder after; {_MAPPING}",
                field=f"saes[{i}]",
            )
        if hook in named:
            raise SAEError(
                f"saes[{i}]: at {hook}, as saes[{list(named).index(hook)}]; {_MAPPING}",
                field=f"saes[{i}]",
            )
        named[hook] = ref
    return named


def _check_names(repo_id: str, paths: Iterable[str], branch: str) -> None:
    """Hold the names against what `from_pretrained` and a server's specs take."""
    if repo_id.count("/") != 1:
        raise SAEError(f"repo_id: {repo_id!r:.80} is none; expected user/repo", field="repo_id")
    for path in paths:
        place = f"{repo_id}/{path}" if path else repo_id
        parse_spec(f"hf://{place}@{branch}")


def _check_ref(ref: object, where: str) -> None:
    if not isinstance(ref, SAE | Path | str):
        raise SAEError(
            f"{where}: expected an SAE or a folder, got {type(ref).__name__}", field=where
        )


@contextmanager
def _on_disk(named: Mapping[str, SAERef]) -> Iterator[dict[str, Path]]:
    """The folder of each SAE; those in memory are written for as long as the context lasts."""
    with TemporaryDirectory(prefix="saekit-upload-") as temporary:
        folders = {}
        for i, (path, ref) in enumerate(named.items()):
            if isinstance(ref, SAE):
                folders[path] = write_sae_folder(ref, Path(temporary) / str(i))
            else:
                folders[path] = Path(ref)
        yield folders


def _check(path: str, ref: SAERef, folder: Path) -> UploadedSAE:
    """Load an SAE as a server and as the library do, and let it go again."""
    try:
        owned = read_sae_folder_owned(folder)
        sparsity = read_sae_folder(folder).sparsity
        check_finite({} if sparsity is None else {"sparsity": sparsity}, file=SPARSITY_FILE)
    except (SAEFormatError, SAENotFoundError) as error:
        where = f"the SAE for {path or '.'}" if isinstance(ref, SAE) else folder
        raise type(error)(f"{where}: would not load again: {error}", field=error.field) from None
    features = owned.features or FeaturesFile()
    return UploadedSAE(
        path,
        owned.revision,
        owned.cfg,
        features.l0,
        features.explained_variance,
        tuple(name for name in _FILES if (folder / name).exists()),
    )


def _in_repo(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _other_saes(files: Iterable[str], named: Mapping[str, SAERef]) -> list[str]:
    """Folders of the repository that hold SAEs, but for those of this upload."""
    folders = {folder for folder, _, name in (f.rpartition("/") for f in files) if name == CFG_FILE}
    return sorted(folders - named.keys())


def _message(named: Mapping[str, SAERef]) -> str:
    names = [path or "an SAE" for path in named]
    return f"Upload {names[0]}" if len(names) == 1 else f"Upload {len(names)} SAEs"
