"""What a run in several processes cannot do, said before anything is loaded."""

from __future__ import annotations

from saekit_trainer.distributed.ranks import Ranks
from saekit_trainer.errors import ConfigError
from saekit_trainer.run_config import RunConfig


def check_ranks(cfg: RunConfig, ranks: Ranks, *, writes_text: bool) -> None:
    """Refuse what does not go together with so many processes.

    Args:
        writes_text: whether the data are what the model writes itself.

    Raises:
        ConfigError: naming the field.
    """
    if ranks.count == 1:
        if cfg.shard_features:
            raise ConfigError(
                "shard_features: there is one process; start several with torchrun",
                field="shard_features",
            )
        return
    if cfg.train_batch_size_tokens < ranks.count:
        raise ConfigError(
            f"train_batch_size_tokens: {cfg.train_batch_size_tokens} for {ranks.count} processes; "
            "it is the number of all of them together",
            field="train_batch_size_tokens",
        )
    if writes_text and cfg.max_seconds is not None:
        raise ConfigError(
            "max_seconds: by the clock, each process would write a text of another length; give "
            "dataset_path or training_tokens",
            field="max_seconds",
        )
    if cfg.shard_features and (cfg.compile or cfg.compile_sae):
        field = "compile" if cfg.compile else "compile_sae"
        raise ConfigError(f"{field}: not with shard_features; compile_llm is", field=field)


def check_width(d_sae: int, cfg: RunConfig, ranks: Ranks) -> None:
    """Refuse features that cannot be divided evenly.

    Raises:
        ConfigError: naming the field.
    """
    if cfg.shard_features and d_sae % ranks.count:
        raise ConfigError(
            f"d_sae: {d_sae} features cannot be divided evenly among {ranks.count} processes",
            field="d_sae",
        )
