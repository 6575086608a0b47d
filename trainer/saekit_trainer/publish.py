"""Putting SAEs where a server finds them, finished or on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saekit_core.sae.disk import read_sae_folder, write_sae_folder
from saekit_core.sae.errors import SAEError
from saekit_core.sae.features_file import FeaturesFile, read_features_file
from saekit_core.sae.sae import SAE
from saekit_core.sae.specs import check_sae_id
from saekit_trainer.errors import PublishError
from saekit_trainer.results import RunObserver, RunStatus


def publish_target(root: str | Path, sae_id: str) -> Path:
    """The folder that `sae_id` has under the watched folder `root`, which is made if need be.

    Raises:
        PublishError: the name is not allowed, or the folder cannot be made.
    """
    try:
        check_sae_id(sae_id)
    except SAEError as error:
        raise PublishError(str(error), field="sae_id") from error
    folder = Path(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PublishError(f"publish: cannot make {folder} ({error})", field="publish") from error
    return folder / sae_id


def publish_sae(
    sae: SAE, root: str | Path, sae_id: str, *, features: FeaturesFile | None = None
) -> Path:
    """Write `sae` into a watched folder; it appears at once and complete, or not at all.

    An SAE of that name is replaced.

    Returns:
        The folder.

    Raises:
        PublishError: the name is not allowed, or the folder cannot be written.
    """
    target = publish_target(root, sae_id)
    try:
        return write_sae_folder(sae, target, features=features)
    except OSError as error:
        raise PublishError(f"publish: cannot write {target} ({error})", field="publish") from error


class CheckpointPublisher(RunObserver):
    """Publishes each checkpoint under the name of its SAE, so that a server follows the training.

    The finished SAEs are left to the caller, who has them anyway.
    """

    def __init__(self, root: str | Path, sae_ids: Mapping[str, str]) -> None:
        """
        Args:
            root: the watched folder.
            sae_ids: by the SAEs' names in the run; looked at when there is a checkpoint.
        """
        self._root = root
        self._sae_ids = sae_ids
        self._ended = False

    def step_done(self, status: RunStatus) -> None:
        self._ended = status.metrics.step >= status.total_steps

    def folder_written(self, name: str, folder: Path) -> None:
        if not self._ended:
            features = read_features_file(folder)
            publish_sae(read_sae_folder(folder), self._root, self._sae_ids[name], features=features)
