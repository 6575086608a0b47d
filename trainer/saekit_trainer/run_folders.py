"""Where the SAEs of a run are written, and when before its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saekit_core.sae.errors import SAEError
from saekit_core.sae.specs import check_sae_id
from saekit_trainer.errors import ConfigError
from saekit_trainer.plan import SAEPlan
from saekit_trainer.run_config import RunConfig
from saekit_trainer.run_identity import run_name


class RunFolders:
    """The folders of one run.

    Under checkpoint_path each run has a folder of its own: named after the SAE and a digest of
    everything that determines the weights, so that the same run always has the same place and two
    different ones never do.
    """

    def __init__(self, cfg: RunConfig, plans: Mapping[str, SAEPlan]) -> None:
        """
        Args:
            cfg: names the paths and the number of checkpoints.
            plans: the SAEs by name; a lone one has the name "".

        Raises:
            ConfigError: a name cannot be that of a folder.
        """
        for name in plans:
            _check_name(name)
        self._cfg = cfg
        self._written = 0
        self.checkpoints: Path | None = None
        if cfg.checkpoint_path is not None:
            self.checkpoints = Path(cfg.checkpoint_path) / (cfg.wandb_id or run_name(plans))

    @property
    def home(self) -> Path | None:
        """Where what is about the whole run goes: metrics, report; None if nothing is written."""
        if self.checkpoints is not None:
            return self.checkpoints
        return None if self._cfg.output_path is None else Path(self._cfg.output_path)

    @property
    def report(self) -> Path | None:
        """The page about the run; None if there is to be none."""
        home = self.home if self._cfg.html_report else None
        return None if home is None else home.resolve() / "report.html"

    def checkpoint_due(self, step: int, total_steps: int) -> bool:
        """Whether a checkpoint is due after `step` of `total_steps`; says so once for each."""
        reached = self._reached(step, total_steps) if step < total_steps else self._written
        due = reached > self._written
        self._written = max(reached, self._written)
        return due

    def go_on(self, step: int, total_steps: int) -> None:
        """Take up a run after `step` steps, whose checkpoint may still be missing."""
        self._written = self._reached(step - 1, total_steps)

    def of_checkpoint(self, name: str, tokens: int) -> Path:
        """Where the checkpoint of an SAE goes that has seen so many tokens."""
        assert self.checkpoints is not None
        return self.checkpoints / str(tokens) / name

    def _reached(self, step: int, total_steps: int) -> int:
        """How many of the checkpoints a run has come past."""
        n = self._cfg.n_checkpoints
        return min(step * (n + 1) // total_steps, n)

    def of_finished(self, name: str, tokens: int) -> list[Path]:
        """Every place where the finished SAE goes, the first one to be told to people."""
        folders = []
        if self._cfg.output_path is not None:
            folders.append(Path(self._cfg.output_path) / name)
        if self.checkpoints is not None:
            folders.append(self.checkpoints / f"final_{tokens}" / name)
        return folders


def _check_name(name: str) -> None:
    if not name:
        return
    try:
        check_sae_id(name)
    except SAEError as error:
        raise ConfigError(f"saes: {error}", field="saes") from None
