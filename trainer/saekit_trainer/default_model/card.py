"""The model card, written from what was measured."""

from __future__ import annotations

from pathlib import Path

from saekit_trainer.default_model.record import TrainingRecord

CARD_FILE = "README.md"


def write_card(record: TrainingRecord, folder: Path) -> None:
    """Writes the model card beside the weights."""
    (folder / CARD_FILE).write_text(model_card(record), encoding="utf-8")


def model_card(record: TrainingRecord) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    shape, training, data = record.shape, record.training, record.dataset
    train, held_out = record.train_loss, record.held_out_loss
    epochs = record.tokens_seen / record.tokens_per_epoch
    samples = "\n\n".join(f"> **{s.prompt}**{_quoted(s.continuation)}" for s in record.samples)
    return f"""---
language: en
library_name: transformers
pipeline_tag: text-generation
license: {data.licence.lower()}
---

# The default language model of saekit

A small language model that tells simple children's stories. saekit serves it when no other model
is named, so that every command can be tried without a download. It is small enough for any
processor, and large enough for sparse autoencoders on it to find features with a meaning.

## Model

| | |
|---|---|
| Architecture | Llama (`LlamaForCausalLM`), tied embeddings |
| Parameters | {record.n_parameters:,} |
| Layers, width, MLP width, heads | {shape.n_layers}, {shape.d_model}, {shape.d_mlp}, \
{shape.n_heads} |
| Context | {shape.context} tokens |
| Tokenizer | byte-level BPE, {record.vocab_size:,} ids; one special token begins and ends a story |
| Weights | bfloat16 on disk, exact in float32 |

## Training

| | |
|---|---|
| Data set | {data.name} ({data.reference}), {data.licence}; {record.stories_trained_on:,} stories |
| Tokens | {record.tokens_per_epoch:,} in the data, {record.tokens_seen:,} seen \
({epochs:.1f} epochs) |
| Steps | {training.steps:,} of {training.batch_size} × {shape.context} tokens |
| Optimizer | Muon {training.matrix_lr:g} for the matrices of the blocks, AdamW \
{training.vector_lr:g} for the rest, linear decay to 0 |
| Regularisation | dropout {training.dropout:g} on the residual stream, weight decay \
{training.weight_decay:g} |
| Seed | {training.seed} |

| loss per token, weights as saved | nats | bits per byte | stories |
|---|---|---|---|
| on stories trained on | {train.nats_per_token:.3f} | {train.bits_per_byte:.3f} | \
{train.n_stories} |
| on held-out stories | {held_out.nats_per_token:.3f} | {held_out.bits_per_byte:.3f} | \
{held_out.n_stories} |

Every story is measured alone, from its first token to its end. `training.json` has the same
numbers for programs.

## What it writes

Prompts in bold, sampled at temperature 0.8.

{samples}

## Use and limits

For demonstrations, tests and teaching of interpretability tools. It knows the vocabulary and the
plots of the stories it was trained on, and nothing else of the world: characters change their names
and plots lose their thread after a few sentences. The stories were themselves written by a language
model. It follows no instructions, and phrases of its training data may come back word for word.

## Licence of the data

{data.name} is published under {data.licence}.
"""


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")
