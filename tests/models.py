"""Small real models: Hugging Face folders with seeded weights and a tokenizer trained on the spot.

Weights are larger than an initialisation would make them, so that logits are far from uniform
and attention does look somewhere.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BOS, EOS, USER, MODEL = "<s>", "</s>", "<|user|>", "<|model|>"
VOCAB_SIZE = 400
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{% elif m.role == 'model' %}<|model|>"
    "{% else %}{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "{{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}<|model|>{% endif %}"
)
_TEXT = (
    "the cat sat on a mat and saw red bird fly over old house while little girl played with her "
    "dog in green garden near blue river where big tree gave shade to all who came"
)
_WORDS = _TEXT.split()


def story(n_words: int, seed: int = 0) -> str:
    """Some text in the words that the tokenizer was trained on."""
    rng = random.Random(seed)
    return " ".join(rng.choice(_WORDS) for _ in range(n_words)).capitalize() + "."


def build_tokenizer(*, adds_bos: bool = False, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with BOS and EOS.

    Args:
        adds_bos: its post-processor puts a BOS before every text, as Llama's does.
        chat: it has a chat template with the roles user and model.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, USER, MODEL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([story(40, seed) for seed in range(40)], trainer)
    if adds_bos:
        template = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
        )
        core.post_processor = processors.Sequence([core.post_processor, template])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, MODEL],
        chat_template=CHAT_TEMPLATE if chat else None,
    )


def build_llama(folder: Path, *, seed: int = 0, n_layers: int = 3) -> Path:
    """Rotary positions, RMS norm, gated MLP, grouped key-value heads."""
    tokenizer = build_tokenizer(adds_bos=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return _save(folder, LlamaForCausalLM, config, tokenizer, seed)


def build_gpt2(folder: Path, *, seed: int = 0, n_layers: int = 3) -> Path:
    """Learned positions, layer norm, fused QKV, tied embeddings."""
    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=n_layers,
        n_head=4,
        n_positions=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _save(folder, GPT2LMHeadModel, config, tokenizer, seed)


def build_gemma2(folder: Path, *, seed: int = 0, sliding_window: int = 12) -> Path:
    """Soft-capping (so no fused attention), scaled embeddings, every other layer windowed."""
    tokenizer = build_tokenizer(adds_bos=True)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=sliding_window,
        max_position_embeddings=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return _save(folder, Gemma2ForCausalLM, config, tokenizer, seed)


def build_of(folder: Path, config: PreTrainedConfig, *, seed: int = 0) -> Path:
    """A model of whatever type the configuration is of; its vocabulary is the tokenizer's."""
    tokenizer = build_tokenizer()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return _save(folder, model_class, config, tokenizer, seed)


def _save(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:  # gains and biases: around what they were
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise)
            else:
                fan_in = (
                    config.hidden_size if "emb" in name or "wte" in name else min(parameter.shape)
                )
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 1.2 / fan_in**0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
