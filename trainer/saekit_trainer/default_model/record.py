"""What was measured while the default model was made, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from saekit_trainer.default_model.pretrain import ModelShape, PretrainConfig, StoryLoss

RECORD_FILE = "training.json"


@dataclass(frozen=True)
class DataSet:
    """Where the text comes from, as the model card says it."""

    name: str = "TinyStories"
    reference: str = "Eldan and Li, 2023, arXiv:2305.07759"
    licence: str = "CDLA-Sharing-1.0"


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class TrainingRecord:
    """Everything that the model card says in numbers."""

    shape: ModelShape
    training: PretrainConfig
    vocab_size: int
    n_parameters: int
    stories_trained_on: int
    tokens_per_epoch: int
    tokens_seen: int
    train_loss: StoryLoss
    held_out_loss: StoryLoss
    samples: tuple[Sample, ...]
    dataset: DataSet = field(default_factory=DataSet)


def write_record(record: TrainingRecord, folder: Path) -> None:
    """Writes the record as `training.json`."""
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> TrainingRecord:
    """Reads what `write_record` wrote.

    Raises:
        FileNotFoundError: the folder holds no `training.json`.
    """
    fields = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    return TrainingRecord(
        shape=ModelShape(**fields.pop("shape")),
        training=PretrainConfig(**fields.pop("training")),
        train_loss=StoryLoss(**fields.pop("train_loss")),
        held_out_loss=StoryLoss(**fields.pop("held_out_loss")),
        samples=tuple(Sample(**sample) for sample in fields.pop("samples")),
        dataset=DataSet(**fields.pop("dataset")),
        **fields,
    )
