"""The arguments of `saekit eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from saekit_trainer.errors import ConfigError

EXAMPLES = """Measure how much of a language model's activations, and of the model, an SAE keeps.

BOS, EOS, padding and separators do not count, as in SAELens; with --special-tokens they do.

Examples:

  saekit eval --sae blocks.2.hook_resid_pre --self-text
      An SAE of the embedded model, on text that the model writes itself.

  saekit eval --sae ./my-sae --dataset stories.txt --contexts 512
      A folder, with the model that its metadata name, on a text file.

  saekit eval --sae hf://user/repo/path --model gpt2 --dataset Skylion007/openwebtext --json
      An SAE from the Hugging Face hub, on a data set that is streamed from there.
"""


@dataclass(frozen=True)
class EvalOptions:
    """What `saekit eval` measures, and on what."""

    sae: str
    """Folder, hf://user/repo/path@revision, release/id, or an SAE of the embedded model."""
    model: str | None = None
    """Model by Hugging Face name or local folder; by default the one in the SAE's metadata."""
    dataset: str | None = None
    """Data set by Hugging Face name or local folder, or .txt, .jsonl, .parquet or .npy files; by
    default the one in the SAE's metadata."""
    split: str = "train"
    """Split of a named data set."""
    self_text: bool = False
    """Text that the model writes itself, in place of a data set."""
    contexts: int = 128
    """Contexts to measure on, the first ones of the data set."""
    context_size: int | None = None
    """Tokens per context; by default that of the SAE's training."""
    batch_size_prompts: int = 16
    """Contexts per run of the model, at most."""
    reconstruction_only: bool = False
    """Stop at the hook point: no CE loss and no KL, and much less work."""
    special_tokens: bool = False
    """Count BOS, EOS, padding and separators like all other tokens."""
    density: bool = False
    """Add the density of every feature to the JSON object."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights and activations."""
    seed: int = 0
    """Of the text that the model writes itself."""
    json: bool = False
    """Print the figures as one JSON object on stdout, and nothing else there."""

    def __post_init__(self) -> None:
        if self.self_text and self.dataset is not None:
            raise ConfigError("self_text: in place of a dataset, so not with one", field="dataset")
        if self.density and not self.json:
            raise ConfigError("density: needs --json", field="density")
        for name in ("contexts", "batch_size_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is not positive", field=name)


def parse_eval_options(argv: list[str]) -> EvalOptions:
    """The options of a command line.

    Raises:
        ConfigError: values that contradict each other.
        SystemExit: by tyro, after help or an explained error.
    """
    return tyro.cli(
        EvalOptions,
        prog="saekit eval",
        description=EXAMPLES,
        args=argv,
    )
