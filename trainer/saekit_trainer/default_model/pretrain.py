"""Pretraining of the default model on packed stories."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from saekit_trainer.default_model.corpus import batches, training_rows
from saekit_trainer.default_model.muon import Muon


@dataclass(frozen=True)
class ModelShape:
    """Architecture of the Llama-type model; the vocabulary is the tokenizer's."""

    n_layers: int = 4
    """Transformer blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    d_mlp: int = 384
    """Width of the gated MLP."""
    n_heads: int = 4
    """Attention heads; `d_model` is a multiple of it."""
    context: int = 512
    """Longest sequence in tokens, in training and afterwards."""


@dataclass(frozen=True)
class PretrainConfig:
    """How long and how to train."""

    steps: int = 1800
    """Optimizer steps."""
    batch_size: int = 8
    """Rows of `context` tokens per step."""
    matrix_lr: float = 0.02
    """Peak learning rate of Muon, for the matrices inside the blocks."""
    vector_lr: float = 3e-3
    """Peak learning rate of AdamW, for embeddings and norms."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices inside the blocks."""
    dropout: float = 0.1
    """Dropout on the embeddings and on what each attention and MLP adds to the residual stream."""
    warm_up: float = 0.03
    """Fraction of the steps over which the learning rate rises; it then falls to 0 linearly."""
    seed: int = 0
    """Of the weights, the order of the stories and the dropout."""
    compile: bool = False
    """Compile the training step with `torch.compile` (a third faster; needs a C++ compiler)."""


@dataclass(frozen=True)
class Progress:
    """What is known after a step."""

    step: int
    loss: float
    """Mean training loss of the last steps, nats per token, with dropout."""
    tokens: int
    seconds: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class StoryLoss:
    """Loss over whole stories, each alone and begun by BOS."""

    nats_per_token: float
    bits_per_byte: float
    """Comparable between tokenizers; the end of a story counts as one byte."""
    n_stories: int
    n_tokens: int


def new_model(shape: ModelShape, *, vocab_size: int, bos_id: int, seed: int) -> LlamaForCausalLM:
    """A randomly initialised model with tied embeddings."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_mlp,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=bos_id,
            eos_token_id=bos_id,
            pad_token_id=bos_id,
            initializer_range=shape.d_model**-0.5 / 2,
        )
    )


def pretrain(
    model: LlamaForCausalLM,
    stories: Sequence[Sequence[int]],
    config: PretrainConfig,
    *,
    on_progress: OnProgress,
    report_every: int = 10,
) -> Progress:
    """Trains `model` in place on tokenised `stories` (without BOS) and leaves it in eval mode.

    Raises:
        ValueError: no stories.
    """
    if not stories:
        raise ValueError("stories: got none, expected at least one")
    torch.manual_seed(config.seed)
    context, bos_id = context_and_bos(model)
    rows = training_rows(stories, row_length=context + 1, bos_id=bos_id, seed=config.seed)
    optimizers = _optimizers(model, config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: _lr_factor(step, config))
        for o in optimizers
    ]
    hooks = _add_residual_dropout(model, config.dropout)
    model.train()
    step_loss = torch.compile(next_token_loss) if config.compile else next_token_loss
    started, recent, progress = time.monotonic(), [], Progress(0, float("nan"), 0, 0.0)
    for step, tokens in zip(range(1, config.steps + 1), batches(rows, config.batch_size)):  # noqa: B905
        loss = step_loss(model, tokens).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if step % report_every == 0 or step == config.steps:
            progress = Progress(
                step=step,
                loss=sum(recent) / len(recent),
                tokens=step * config.batch_size * context,
                seconds=time.monotonic() - started,
            )
            on_progress(progress)
            recent = []
    for hook in hooks:
        hook.remove()
    model.train(False)
    return progress


def next_token_loss(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Cross-entropy of each next token in nats, float32 [rows, length - 1]."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


@torch.no_grad()
def story_loss(
    model: LlamaForCausalLM, texts: Sequence[str], stories: Sequence[Sequence[int]]
) -> StoryLoss:
    """Mean loss without dropout over whole stories, each begun by BOS and ended by EOS.

    `texts` are the stories that `stories` are the token ids of; they give the bytes. Stories that
    do not fit into the model's context are left out.
    """
    context, bos_id = context_and_bos(model)
    nats, n_tokens, n_bytes, n_stories = 0.0, 0, 0, 0
    for text, story in zip(texts, stories, strict=True):
        row = torch.tensor([[bos_id, *story, bos_id]])
        if row.shape[1] > context:
            continue
        nats += next_token_loss(model, row).sum().item()
        n_tokens += row.shape[1] - 1
        n_bytes += len(text.encode()) + 1
        n_stories += 1
    return StoryLoss(
        nats_per_token=nats / n_tokens,
        bits_per_byte=nats / n_bytes / math.log(2),
        n_stories=n_stories,
        n_tokens=n_tokens,
    )


def context_and_bos(model: LlamaForCausalLM) -> tuple[int, int]:
    """Longest sequence in tokens and the id that begins and ends every story."""
    bos_id = model.config.bos_token_id
    if bos_id is None:
        raise ValueError("model.config.bos_token_id: got None, expected a token id")
    return model.config.max_position_embeddings, bos_id


def _optimizers(model: LlamaForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [w for w in model.model.layers.parameters() if w.ndim == 2]
    inside = {id(w) for w in matrices}
    others = [w for w in model.parameters() if id(w) not in inside]
    return [
        Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.vector_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _lr_factor(step: int, config: PretrainConfig) -> float:
    done = step / config.steps
    return min(
        (step + 1) / max(1.0, config.warm_up * config.steps), (1 - done) / (1 - config.warm_up)
    )


def _add_residual_dropout(
    model: LlamaForCausalLM, p: float
) -> list[torch.utils.hooks.RemovableHandle]:
    """Llama has no dropout of its own; hooks add it while the model is in training mode."""

    def drop(module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (F.dropout(output[0], p, module.training), *output[1:])
        return F.dropout(output, p, module.training)

    inner = model.model
    branches = [branch for block in inner.layers for branch in (block.self_attn, block.mlp)]
    return [module.register_forward_hook(drop) for module in (inner.embed_tokens, *branches)]
