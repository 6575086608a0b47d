"""A tiny language model, a text and a short run that most tests of the trainer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.models import build_llama, story
from tests.trainer.small_run import SMALL

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.trainer import StepMetrics


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder."""
    return build_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    """Three blocks, 32 wide."""
    return boot_model(folder, device="cpu")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of sixty stories of forty words."""
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = (story(40, seed) for seed in range(60))
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def run(model: LanguageModel, text: str) -> Callable[..., tuple[SAETrainingRunner, Any]]:
    """Train with some parameters changed: the runner, and what each step saw."""

    def run_with(**values: Any) -> tuple[SAETrainingRunner, list[StepMetrics]]:
        seen: list[StepMetrics] = []
        cfg = replace(SMALL, **{"dataset_path": text, **values})
        runner = SAETrainingRunner(
            cfg, override_model=model, report=lambda status: seen.append(status.metrics)
        )
        runner.run()
        return runner, seen

    return run_with
