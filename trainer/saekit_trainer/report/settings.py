"""The configuration of a run, as rows of a table."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from typing import Any

from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.plan import SAEPlan

Rows = list[list[str]]


def changed_settings(cfg: LanguageModelSAERunnerConfig) -> Rows:
    """Parameters that differ from their defaults."""
    return [row for row, default in _settings(cfg) if not default]


def other_settings(cfg: LanguageModelSAERunnerConfig) -> Rows:
    """Those that do not."""
    return [row for row, default in _settings(cfg) if default]


def plan_values(plan: SAEPlan) -> Rows:
    """Sizes, losses and optimisation, presets filled in."""
    values = {
        "hook point": plan.hook.name,
        "hook point out": plan.hook_out.name,
        **asdict(plan.sae),
        **asdict(plan.optimization),
    }
    return [[name, _text(value)] for name, value in values.items()]


def _settings(cfg: LanguageModelSAERunnerConfig) -> list[tuple[list[str], bool]]:
    rows = []
    for field in fields(cfg):
        value, default = getattr(cfg, field.name), field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        rows.append(([field.name, _text(value)], value == default))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()) or "–"
    return "–" if value is None else str(value)
