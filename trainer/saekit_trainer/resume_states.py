"""`ResumeStates`: the states of a run on disk, from which it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from saekit_core.sae.whole_folders import mend, whole_folder
from saekit_trainer.disk_errors import why_not_written
from saekit_trainer.errors import CheckpointError
from saekit_trainer.going_on import go_on
from saekit_trainer.state_file import STATE_FILE, write_state

FOLDER: Final = "resume"
_STEP: Final = "step-"
# Writing states may take this share of a run's time.
_SHARE: Final = 0.02


class ResumeStates:
    """The folder of a run's states, ``resume/step-N``, of which the newest are kept.

    Each appears at once and complete. Those that another attempt at the run left behind, and that
    this one does not go on from, are deleted once it has one of its own.
    """

    def __init__(
        self,
        run: Path | None,
        *,
        keep: int,
        seconds: float,
        begun_from: Path | None,
        clock: Callable[[], float],
        writes: bool = True,
    ) -> None:
        """
        Args:
            run: the run's folder; None: nothing is written.
            keep: how many are kept; 0: nothing is written.
            seconds: from one state to the next, as long as writing takes a small share of it.
            begun_from: the state that the run goes on from, None where it begins anew.
            clock: seconds since some moment.
            writes: False in a process that only has to know what another one has written.
        """
        self._folder = None if run is None or keep == 0 else run / FOLDER
        self._keep = keep
        self._seconds = seconds
        self._begun_from = begun_from
        self._writes = writes
        self._clock = clock
        self._due_at = clock() + seconds
        self._stale: list[Path] = []
        if run is None or self._folder is None:
            return
        for folder in [run, *(place for place in run.rglob("*") if place.is_dir())]:
            if writes:
                mend(folder)
        self._stale = states_in(self._folder)
        if begun_from is not None and begun_from.resolve().parent == self._folder.resolve():
            step = step_of(begun_from.resolve())
            self._begun_from = self._folder / begun_from.resolve().name
            self._stale = [place for place in self._stale if step_of(place) > step]

    @property
    def known(self) -> list[Path] | None:
        """What the run can go on from, oldest first; None where nothing is written."""
        begun_from = [] if self._begun_from is None else [self._begun_from]
        if self._folder is None:
            return begun_from or None
        own = [place for place in states_in(self._folder) if place not in self._stale]
        return own if self._begun_from in own else begun_from + own

    def due(self, now: float) -> bool:
        """Whether it is time for a state, at a moment of the clock."""
        return self._writes and self._folder is not None and now >= self._due_at

    def missing(self, step: int) -> bool:
        """Whether the state after `step` steps is to be written and is not there."""
        if self._folder is None or not self._writes:
            return False
        return step not in map(step_of, self.known or [])

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step` steps, and delete those that are not kept.

        Raises:
            CheckpointError: it cannot be written; those that were there stay.
        """
        assert self._folder is not None
        began = self._clock()
        target = self._folder / f"{_STEP}{step}"
        try:
            with whole_folder(target) as aside:
                write_state(aside, state)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the state after step {step} is lost: {why_not_written(self._folder, error)}. "
                f"With that mended, {go_on(self.known)}",
                field="checkpoint_path",
            ) from error
        for place in self._stale:
            if place != target:
                shutil.rmtree(place, ignore_errors=True)
        self._stale = []
        self.prune(self._keep)
        now = self._clock()
        self._due_at = now + max(self._seconds, (now - began) * (1 / _SHARE - 1))
        return target

    def prune(self, keep: int) -> None:
        """Delete all states of the run but the newest."""
        if self._folder is not None and self._writes:
            for place in states_in(self._folder)[:-keep]:
                shutil.rmtree(place, ignore_errors=True)


def states_in(folder: Path) -> list[Path]:
    """The states in a folder, those of fewer steps first."""
    found = [place for place in folder.glob(f"{_STEP}*") if (place / STATE_FILE).is_file()]
    return sorted(found, key=step_of)


def step_of(place: Path) -> int:
    """The steps that a state is behind, by its name."""
    return int(place.name.removeprefix(_STEP))
