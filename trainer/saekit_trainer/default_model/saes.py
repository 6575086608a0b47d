"""`python -m saekit_trainer.default_model.saes`: the SAEs that come with the default model.

Trained on the stories, measured on held-out ones. The example snippets in their features files are
cut only from text that the model wrote itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import tyro
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from saekit_core.assets import default_model_dir
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.disk import write_sae_folder
from saekit_core.sae.layout import WEIGHTS_FILE
from saekit_core.sae.sae import SAE
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.context_format import ContextFormat
from saekit_trainer.default_model.corpus import Corpus, read_corpus
from saekit_trainer.default_model.labels import label_features, read_label_rules
from saekit_trainer.default_model.saes_card import SAERecord, write_sae_records, write_sae_section
from saekit_trainer.display import TrainingDisplay
from saekit_trainer.evaluation import evaluate
from saekit_trainer.feature_stats import SnippetConfig, describe_features
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.samples.rows import IndexedRows
from saekit_trainer.self_text import sample_contexts
from saekit_trainer.text_contexts import TextContexts

CONTEXT: Final = 128
HELD_OUT_CONTEXTS: Final = 400

COMMON: Final = LanguageModelSAERunnerConfig(
    d_sae=2048,
    context_size=CONTEXT,
    # The name under which the data set is known; the stories themselves are handed over.
    dataset_path="roneneldan/TinyStories",
    training_tokens=3_000_000,
    train_batch_size_tokens=2048,
    n_batches_in_buffer=32,
    feature_stats_tokens=CONTEXT,  # taken below, on more text
    # Not bfloat16: processors without units for it are many times slower on it.
    save_dtype="float32",
    seed=0,
)
DEFAULT_SAES: Final = {
    "blocks.1.hook_mlp_out": replace(
        COMMON, hook_name="blocks.1.hook_mlp_out", architecture="standard"
    ),
    "blocks.2.hook_resid_pre": replace(
        COMMON, hook_name="blocks.2.hook_resid_pre", architecture="jumprelu", l1_coefficient=1.0
    ),
    "blocks.3.hook_resid_pre": replace(
        COMMON, hook_name="blocks.3.hook_resid_pre", architecture="topk", k=16
    ),
}
"""sae_id → how it is trained."""


@dataclass(frozen=True)
class SAEOptions:
    """Trains the SAEs of the default model, names features and completes the model card."""

    text: Path
    """UTF-8 file of stories, separated by lines `<|endoftext|>`."""
    only: tuple[str, ...] = ()
    """Names of the SAEs to make; all of them by default."""
    relabel: bool = False
    """Keep the weights; only redo statistics, snippets and labels."""
    out: Path = field(default_factory=default_model_dir)
    """Folder of the model; the SAEs go to its subfolder `saes`."""
    self_text_contexts: int = 1024
    """Contexts that the model writes for the snippets."""
    threads: int = 2
    """CPU threads."""


def main(args: list[str] | None = None) -> None:
    """Makes what the command line asks for."""
    options = tyro.cli(SAEOptions, prog="python -m saekit_trainer.default_model.saes", args=args)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)
    make_saes(options, Console())


def make_saes(options: SAEOptions, console: Console) -> None:
    """Trains, describes and writes each SAE, then the card's section about them."""
    model = boot_model(options.out, device="cpu")
    corpus = read_corpus(options.text)
    written = own_text(model, options.self_text_contexts)
    records = []
    for name in options.only or DEFAULT_SAES:
        console.print(f"[bold]{name}[/bold]")
        folder = options.out / "saes" / name
        sae = (
            SAE.load_from_disk(folder)
            if options.relabel
            else train_one(model, corpus, DEFAULT_SAES[name], console)
        )
        records.append(describe_one(model, sae, corpus, written, folder=folder, console=console))
    write_sae_records(records, options.out)
    write_sae_section(options.out)


def train_one(
    model: LanguageModel, corpus: Corpus, cfg: LanguageModelSAERunnerConfig, console: Console
) -> SAE:
    """A finished SAE; nothing is written."""
    source = TextContexts(
        IndexedRows(corpus.train), model.tokenizer, ContextFormat(CONTEXT, prepend_bos=True)
    )
    with TrainingDisplay(console) as display:
        return SAETrainingRunner(
            cfg, override_model=model, override_dataset=source, observers=[display]
        ).run()


def describe_one(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    written: Tensor,
    *,
    folder: Path,
    console: Console,
) -> SAERecord:
    """Measures `sae` as it is saved, names features, and writes its folder."""
    round_to_float16(sae)
    held_out = contexts_of(model, corpus.held_out, HELD_OUT_CONTEXTS)
    evaluation = evaluate(model, sae, held_out)
    features = describe_features(
        model,
        sae,
        contexts_of(model, corpus.train, 2 * HELD_OUT_CONTEXTS),
        evaluation=evaluation,
        snippets=SnippetConfig(per_feature=2, before=10, after=4, decimals=1),
        snippet_tokens=written,
    )
    rules = [rule for rule in read_label_rules() if rule.sae == folder.name]
    labels = label_features(model, sae, written, rules)
    for rule in rules:
        found = next((f"feature {f}" for f, label in labels.items() if label == rule.label), "none")
        console.print(f"  {rule.label}: {found}", highlight=False)
    features = replace(features, labels=labels)
    if features.density is not None:
        sae.sparsity = (torch.from_numpy(features.density) + 1e-10).log10()
    write_sae_folder(sae, folder, features=features)
    narrow_weights(folder)
    for name, value in evaluation.to_dict().items():
        console.print(f"  {name}: {value:.4f}", highlight=False)
    return SAERecord.of(folder.name, sae, evaluation, COMMON.training_tokens)


@torch.no_grad()
def round_to_float16(sae: SAE) -> None:
    """Round every weight to a value that float16 can hold; the arithmetic stays float32."""
    for weight in sae.weights().values():
        weight.copy_(weight.half().float())


def narrow_weights(folder: Path) -> None:
    """Store rounded weights as float16 under a configuration that loads them as float32."""
    path = folder / WEIGHTS_FILE
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)


def contexts_of(model: LanguageModel, stories: Sequence[str], n: int) -> Tensor:
    """The first `n` contexts of `stories`, int64 ``[n, CONTEXT]``."""
    source = TextContexts(
        IndexedRows(stories), model.tokenizer, ContextFormat(CONTEXT, prepend_bos=True)
    )
    return torch.from_numpy(np.stack(list(itertools.islice(source.contexts(), n))))


def own_text(model: LanguageModel, n: int, *, temperature: float = 0.7, seed: int = 0) -> Tensor:
    """`n` contexts that the model writes, int64 ``[n, CONTEXT]``."""
    generator = torch.Generator().manual_seed(seed)
    chunks = [
        sample_contexts(
            model,
            n_rows=min(128, n - start),
            context_size=CONTEXT,
            temperature=temperature,
            generator=generator,
        )
        for start in range(0, n, 128)
    ]
    return torch.cat(chunks)


if __name__ == "__main__":
    main()
