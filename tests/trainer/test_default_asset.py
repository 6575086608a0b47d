"""The default model that the package embeds: it loads, it is small, and it tells stories."""

from __future__ import annotations

import random
import re

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from saekit_core.assets import default_model_dir, default_sae_root
from saekit_trainer.default_model.card import model_card
from saekit_trainer.default_model.pretrain import story_loss
from saekit_trainer.default_model.record import read_record
from saekit_trainer.default_model.tokenizer import encode_stories

# Written for this test, so the model cannot have seen it.
STORY = (
    "Once upon a time, there was a little boy named Max. Max had a big blue kite. One day, he took "
    "the kite to the park. The wind was strong and the kite flew up into a tall tree. Max was sad "
    'and began to cry. A kind bird saw him and said, "Do not cry, I can help you." The bird flew '
    "up and pulled the kite down. Max was very happy. He thanked the bird and they became friends."
)
COMMON_WORDS = "a and the to of in on was were is it he she they his her him them with for had said"
COMMON_WORDS += " very big little one day saw wanted play happy sad not but so at you i there be up"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(default_model_dir(), local_files_only=True)
    assert isinstance(loaded, LlamaForCausalLM)
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(default_model_dir(), local_files_only=True)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def test_the_model_leaves_room_for_saes_in_the_package() -> None:
    sizes = {p: p.stat().st_size for p in default_model_dir().rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= 12_000_000
    of_model = sum(n for p, n in sizes.items() if default_sae_root() not in p.parents)
    assert of_model <= 4_500_000


def test_the_model_loads_as_float32_with_the_tokenizer_it_was_trained_with(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.bos_token_id == tokenizer.bos_token_id == tokenizer("Hi")["input_ids"][0]
    assert model.config.max_position_embeddings == tokenizer.model_max_length


def test_a_new_story_is_expected_and_its_words_in_disorder_are_not(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    words = STORY.split()
    random.Random(0).shuffle(words)
    texts = [STORY, " ".join(words)]
    ids = encode_stories(tokenizer, texts)
    loss, loss_in_disorder = (
        story_loss(model, [text], [row]).nats_per_token
        for text, row in zip(texts, ids, strict=True)
    )
    assert loss < 3.0
    assert loss_in_disorder > loss + 1.5


def test_greedy_text_is_plain_english(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = tokenizer("Tom had a red ball.", return_tensors="pt")
    ids = model.generate(**prompt, do_sample=False, max_new_tokens=80)  # type: ignore[misc]
    text = str(tokenizer.decode(ids[0], skip_special_tokens=True))
    words = re.findall(r"[a-z]+", text.lower())
    assert text.isascii()
    assert len(words) > 40
    assert sum(word in COMMON_WORDS.split() for word in words) > 0.4 * len(words)


def test_hook_points_are_read_from_the_same_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    bridge = TransformerBridge.boot_transformers(str(default_model_dir()), device="cpu")
    tokens = tokenizer(STORY, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        difference = (bridge(tokens) - model(tokens).logits).abs().max().item()
    assert difference < 1e-4
    assert torch.equal(bridge.to_tokens(STORY).cpu(), tokens)


def test_the_card_and_the_record_agree() -> None:
    record = read_record(default_model_dir())
    card = (default_model_dir() / "README.md").read_text(encoding="utf-8")
    assert card.startswith(model_card(record).split("\n## Licence")[0])
    assert record.held_out_loss.nats_per_token < 2.7
    assert record.held_out_loss.nats_per_token - record.train_loss.nats_per_token < 0.4
