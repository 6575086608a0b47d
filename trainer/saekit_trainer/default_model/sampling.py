"""What the default model writes, for its card."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from saekit_trainer.default_model.record import Sample

PROMPTS = (
    "Once upon a time, there was a little girl named Lily.",
    "Tom had a red ball.",
)


def sample_continuations(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str] = PROMPTS,
    *,
    temperature: float = 0.8,
    max_new_tokens: int = 120,
    seed: int = 0,
) -> tuple[Sample, ...]:
    """One continuation of each prompt, up to the end of its story or `max_new_tokens`."""
    torch.manual_seed(seed)
    samples = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(  # type: ignore[misc]
            **inputs, do_sample=True, temperature=temperature, max_new_tokens=max_new_tokens
        )
        new = ids[0, inputs["input_ids"].shape[1] :]
        samples.append(Sample(prompt, str(tokenizer.decode(new, skip_special_tokens=True))))
    return tuple(samples)
