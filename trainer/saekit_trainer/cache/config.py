"""The arguments of `saekit train cache-activations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from saekit_trainer.errors import ConfigError

EXAMPLES = """Put a language model's activations on disk, to train SAEs on them as often as wanted.

What is there can be trained on while the rest is still missing. A run that was interrupted goes on
where it was when the same command is given again.

Examples:

  saekit train cache-activations --out cache --tokens 1000000
      The embedded model, on text that it writes itself.

  saekit train cache-activations --model gpt2 --hook-name blocks.8.hook_resid_pre
      --dataset 'stories/*.jsonl' --out gpt2-l8 --tokens 100000000
      Several files, one hook point.

  saekit train --use-cached-activations --cached-activations-path gpt2-l8 --model-name gpt2
      --hook-name blocks.8.hook_resid_pre --out my-sae
      Training from it.
"""

_Also = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class CacheActivationsRunnerConfig:
    """What is cached, by SAELens' names.

    Raises:
        ConfigError: a value that cannot be used.
    """

    new_cached_activations_path: Annotated[str, _Also(aliases=("--out",))]
    """Folder to write to. A cache of the same activations that is there is gone on with."""
    model_name: Annotated[str | None, _Also(aliases=("--model",))] = None
    """Model by Hugging Face name or local folder; without it, the embedded default model."""
    hook_name: tuple[str, ...] = ()
    """Hook points whose activations are kept; without one, the residual stream before the middle
    block."""
    dataset_path: Annotated[str | None, _Also(aliases=("--dataset",))] = None
    """Text, or tokens, to run the model on: .txt, .jsonl or .parquet files (a path or a glob), a
    .npy file, or a Hugging Face data set (name or local folder). Without it, the model writes its
    own text."""
    dataset_split: str = "train"
    """Split of a Hugging Face data set."""
    dataset_column: str | None = None
    """Column or field to read, of text or of token ids; without it the first there is of tokens,
    input_ids, text, content and problem."""
    streaming: bool = True
    """Whether a Hugging Face data set is streamed rather than downloaded."""
    on_broken_sample: Literal["stop", "skip"] = "stop"
    """Whether a sample that cannot be read ends the run, or is left out and counted (skip)."""
    context_size: int = 128
    """Tokens per context, BOS included."""
    prepend_bos: bool = True
    """Whether contexts begin with the beginning-of-sequence token, which then also separates
    documents."""
    sequence_separator_token: int | Literal["default", "bos", "eos", "sep"] | None = "default"
    """What stands between documents of text that share a context: a token id, the special token of
    that name, or nothing; by default BOS, or EOS where contexts do not begin with BOS."""
    disable_concat_sequences: bool = False
    """Give each document of text that is long enough one context, and leave out the others."""
    training_tokens: Annotated[int, _Also(aliases=("--tokens",))] = 2_000_000
    """Tokens to cache, in whole contexts; fewer if the data set ends before. A cache that has fewer
    is gone on with, one that has them is left as it is."""
    model_batch_size: int = 32
    """Contexts per run of the model."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number type on disk."""
    autocast_lm: bool = False
    """Whether the model's matrix products are done in bfloat16."""
    device: str = "auto"
    """auto (the fastest there is), cpu, cuda or mps."""
    seed: int = 42
    """Of the text that the model writes itself."""

    def __post_init__(self) -> None:
        if isinstance(self.hook_name, str):
            object.__setattr__(self, "hook_name", (self.hook_name,))
        for name in ("training_tokens", "model_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 1", field=name)
        if self.context_size < 2:
            raise ConfigError(
                f"context_size: {self.context_size}, expected at least 2", field="context_size"
            )
        if self.training_tokens < self.context_size:
            raise ConfigError(
                f"training_tokens: {self.training_tokens} is less than one context of "
                f"{self.context_size}",
                field="training_tokens",
            )


def parse_cache_options(argv: list[str]) -> CacheActivationsRunnerConfig:
    """The options of a command line.

    Raises:
        ConfigError: a value that cannot be used.
        SystemExit: by tyro, after help or an explained error.
    """
    return tyro.cli(
        CacheActivationsRunnerConfig,
        prog="saekit train cache-activations",
        description=EXAMPLES,
        args=argv,
    )
