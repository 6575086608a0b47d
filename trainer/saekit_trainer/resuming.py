"""Which state a run goes on from, and whether it may."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saekit_trainer.errors import CheckpointError, ConfigError
from saekit_trainer.plan import SAEPlan
from saekit_trainer.resume_options import LATEST
from saekit_trainer.resume_states import FOLDER, states_in
from saekit_trainer.run_config import RunConfig
from saekit_trainer.run_identity import differences
from saekit_trainer.state_file import STATE_FILE, read_state, read_values

_FIELD: Final = "resume_from_checkpoint"


@dataclass(frozen=True)
class ResumePoint:
    """A state on disk.

    Attributes:
        folder: where it is.
        step: steps done.
        total_steps: of the run that wrote it, as far as that knew.
        observers: what each kind of observer wanted to remember, by the name of its class.
    """

    folder: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> ResumePoint:
        """
        Raises:
            CheckpointError: there is no state, or none that this version reads.
        """
        return cls(folder, read_values(folder))

    @property
    def step(self) -> int:
        return int(self.values["step"])

    @property
    def total_steps(self) -> int:
        return int(self.values["total_steps"])

    @property
    def observers(self) -> Mapping[str, Mapping[str, Any]]:
        remembered: Mapping[str, Mapping[str, Any]] = self.values["observers"]
        return remembered

    def load(self) -> dict[str, Any]:
        """The whole state; see `read_state`."""
        return read_state(self.folder)

    def misfits(
        self, cfg: RunConfig, plans: Mapping[str, SAEPlan], revision: str
    ) -> list[tuple[str, str]]:
        """Why it is not a state of the run that `cfg` describes: fields, and what is wrong."""
        found = differences(self.values["run"], plans, self.step, cfg.resume_changes)
        began = self.values["model_revision"]
        if began != revision:
            found.append(
                (
                    "model_name",
                    f"model_name: a model of revision {revision}, but {began} when the run began",
                )
            )
        return found


def find_resume_point(
    cfg: RunConfig, plans: Mapping[str, SAEPlan], run: Path | None, revision: str
) -> ResumePoint | None:
    """The state that `resume_from_checkpoint` means; None without, or with none for the latest.

    Args:
        run: the run's own folder.
        revision: of the model.

    Raises:
        CheckpointError: there is no state, or no good one.
        ConfigError: it is of another run, naming the field.
    """
    if cfg.resume_from_checkpoint is None:
        if run is not None:
            _warn_of_unfinished(run)
        return None
    if cfg.resume_from_checkpoint != LATEST:
        point = ResumePoint.read(_state_at(Path(cfg.resume_from_checkpoint)))
        _check(point, point.misfits(cfg, plans, revision))
        return point
    assert run is not None  # checked with the configuration
    if own := states_in(run / FOLDER):
        point = ResumePoint.read(own[-1])
        _check(point, point.misfits(cfg, plans, revision))
        return point
    return _of_another_run(cfg, plans, run, revision)


def _state_at(path: Path) -> Path:
    if (path / STATE_FILE).is_file():
        return path
    for folder in (path / FOLDER, path):
        if found := states_in(folder):
            return found[-1]
    what = "an SAE without a state" if (path / "cfg.json").is_file() else "no state"
    raise CheckpointError(
        f"{_FIELD}: {path} holds {what}; expected a folder {FOLDER}/step-N under checkpoint_path, "
        "or that of a run with one",
        field=_FIELD,
    )


def _check(point: ResumePoint, misfits: list[tuple[str, str]]) -> None:
    if not misfits:
        return
    field = misfits[0][0]
    reasons = "; ".join(reason for _, reason in misfits)
    raise ConfigError(
        f"{reasons}. {point.folder} would not become the same weights: give what it began with, "
        f"or name the fields in resume_changes if that is meant",
        field=field,
    )


def _of_another_run(
    cfg: RunConfig, plans: Mapping[str, SAEPlan], run: Path, revision: str
) -> ResumePoint | None:
    """The newest state beside `run` whose steps are those of this run, too."""
    newest = [found[-1] for other in run.parent.glob(f"*/{FOLDER}") if (found := states_in(other))]
    reason = ""
    for place in sorted(newest, key=lambda place: place.stat().st_mtime, reverse=True):
        point = ResumePoint.read(place)
        misfits = point.misfits(cfg, plans, revision)
        if not misfits:
            return point
        reason = reason or f"; {place} is of another one ({misfits[0][1]})"
    if reason:
        warnings.warn(
            f"{run.parent} has no state of this run, which begins anew{reason}", stacklevel=2
        )
    return None


def _warn_of_unfinished(run: Path) -> None:
    found = states_in(run / FOLDER)
    if not found:
        return
    point = ResumePoint.read(found[-1])
    if point.step < point.total_steps:
        warnings.warn(
            f"{point.folder} is left of this run, which begins anew and will replace it; "
            f'{_FIELD}="{LATEST}" (--resume) goes on from there',
            stacklevel=2,
        )
