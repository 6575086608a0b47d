"""`MultiSAETrainingRunnerConfig`: several SAEs that share a run of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tyro.conf import Fixed

from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.nested_config import LoggingConfig, SAESettings, sae_values
from saekit_trainer.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class MultiSAETrainingRunnerConfig(RunConfig):
    """SAEs by name, each with what is its own; the rest they have in common."""

    saes: Fixed[Mapping[str, SAESettings | Mapping[str, Any]]] = field(
        default_factory=dict, hash=False
    )
    """Name → the configuration of its architecture, or a table of flat names, which may say
    hook_name as well."""
    hook_names: Fixed[Mapping[str, str] | str | None] = field(default=None, hash=False)
    """Hook point of each SAE by name, or of all."""

    def __post_init__(self, logger: LoggingConfig | Mapping[str, Any] | None) -> None:
        super().__post_init__(logger)
        if not self.saes:
            raise ConfigError("saes: there is none", field="saes")
        self.members()

    def members(self) -> dict[str, LanguageModelSAERunnerConfig]:
        """The SAEs as configurations of their own.

        Raises:
            ConfigError: naming the SAE and what is wrong with it.
        """
        shared = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        hooks = self._hook_names()
        members = {}
        for name, settings in self.saes.items():
            try:
                values = {**hooks[name], **sae_values(settings)}
                if common := sorted(values.keys() & shared.keys() - {"dtype", "device"}):
                    raise ConfigError(f"{common[0]}: belongs to the run", field=common[0])
                members[name] = LanguageModelSAERunnerConfig(**{**shared, **values})
            except ConfigError as error:
                raise ConfigError(f"saes.{name}: {error}", field=error.field) from None
        return members

    def _hook_names(self) -> dict[str, dict[str, str]]:
        if self.hook_names is None:
            return {name: {} for name in self.saes}
        if isinstance(self.hook_names, str):
            return {name: {"hook_name": self.hook_names} for name in self.saes}
        if odd := self.hook_names.keys() ^ self.saes.keys():
            raise ConfigError(
                f"hook_names: {min(odd)!r} is not in both saes and hook_names", field="hook_names"
            )
        return {name: {"hook_name": hook} for name, hook in self.hook_names.items()}
