"""`python -m saekit_trainer.default_model`: makes the embedded default model from a text file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging as transformers_logging

from saekit_core.assets import default_model_dir
from saekit_trainer.default_model import pretrain, tokenizer
from saekit_trainer.default_model.card import write_card
from saekit_trainer.default_model.corpus import Corpus, read_corpus
from saekit_trainer.default_model.record import (
    DataSet,
    TrainingRecord,
    read_record,
    write_record,
)
from saekit_trainer.default_model.saes import SAEOptions, make_saes
from saekit_trainer.default_model.saes_card import write_sae_section
from saekit_trainer.default_model.sampling import sample_continuations
from saekit_trainer.default_model.saving import round_to_bfloat16, save_model


@dataclass(frozen=True)
class Options:
    """Makes the tokenizer and the language model that saekit serves by default."""

    text: Path
    """UTF-8 file of stories, separated by lines `<|endoftext|>`."""
    stage: Literal["tokenizer", "model", "card", "saes", "all"] = "all"
    """What to make; `all` is the model with its tokenizer and card. `model` takes the tokenizer,
    `card` the numbers, and `saes`, which comes last, the model from the folder."""
    out: Path = field(default_factory=default_model_dir)
    """Folder to write; by default the one that the package embeds."""
    vocab_size: int = 2048
    """Token ids, the 256 bytes and the special token included."""
    threads: int = 2
    """CPU threads."""
    shape: pretrain.ModelShape = field(default_factory=pretrain.ModelShape)
    training: pretrain.PretrainConfig = field(default_factory=pretrain.PretrainConfig)
    dataset: DataSet = field(default_factory=DataSet)


def main(args: list[str] | None = None) -> None:
    """Runs the stages that the command line asks for."""
    options = tyro.cli(Options, prog="python -m saekit_trainer.default_model", args=args)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)
    console = Console()
    corpus = read_corpus(options.text)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage in ("tokenizer", "all"):
        tokenizer.train_tokenizer(
            corpus.train, vocab_size=options.vocab_size, max_length=options.shape.context
        ).save_pretrained(options.out)
    if options.stage in ("model", "all"):
        record = make_model(options, corpus, console)
        write_record(record, options.out)
        console.print(f"held-out loss {record.held_out_loss.nats_per_token:.3f} nats per token")
    if options.stage in ("model", "card", "all"):
        write_card(read_record(options.out), options.out)
        write_sae_section(options.out)
    if options.stage == "saes":
        make_saes(SAEOptions(text=options.text, out=options.out, threads=options.threads), console)
    console.print(f"wrote {options.out}")


def make_model(options: Options, corpus: Corpus, console: Console) -> TrainingRecord:
    """Trains and saves the model, and measures it as it was saved."""
    tokens = tokenizer.load_tokenizer(options.out)
    train = tokenizer.encode_stories(tokens, corpus.train)
    held_out = tokenizer.encode_stories(tokens, corpus.held_out)
    model = pretrain.new_model(
        options.shape,
        vocab_size=len(tokens),
        bos_id=tokenizer.bos_id(tokens),
        seed=options.training.seed,
    )
    with progress_bar(console, options.training.steps) as report:
        done = pretrain.pretrain(model, train, options.training, on_progress=report)
    round_to_bfloat16(model)
    save_model(model, options.out)
    seen = random.Random(0).sample(range(len(train)), min(len(train), len(held_out)))
    return TrainingRecord(
        shape=options.shape,
        training=options.training,
        vocab_size=len(tokens),
        n_parameters=model.num_parameters(),
        stories_trained_on=len(train),
        tokens_per_epoch=sum(len(story) + 1 for story in train),
        tokens_seen=done.tokens,
        train_loss=pretrain.story_loss(
            model, [corpus.train[i] for i in seen], [train[i] for i in seen]
        ),
        held_out_loss=pretrain.story_loss(model, corpus.held_out, held_out),
        samples=sample_continuations(model, tokens),
        dataset=options.dataset,
    )


@contextmanager
def progress_bar(console: Console, steps: int) -> Iterator[pretrain.OnProgress]:
    """A bar on a terminal, a line per report elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=steps)

        def report(progress: pretrain.Progress) -> None:
            line = f"step {progress.step}/{steps} loss {progress.loss:.3f}"
            bar.update(task, completed=progress.step, description=line)
            if not console.is_terminal:
                print(f"{line}, {progress.seconds:.0f} s", flush=True)

        yield report


if __name__ == "__main__":
    main()
