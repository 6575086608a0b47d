"""Byte-level BPE tokenizer of the default model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS_TOKEN = "<|endoftext|>"


def train_tokenizer(
    stories: Iterable[str], *, vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE vocabulary of `vocab_size` ids, special token and bytes included.

    All 256 bytes are in the vocabulary, so any UTF-8 text comes back unchanged; no space is put
    before the text, so offsets point into the text as it was given. The one special token opens
    every text (the tokenizer adds it) and ends every story.

    Raises:
        ValueError: `vocab_size` leaves no room beyond the bytes and the special token.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet) + 1:
        raise ValueError(f"vocab_size {vocab_size}: expected more than {len(alphabet) + 1}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        stories,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[BOS_TOKEN],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    bos_id = backend.token_to_id(BOS_TOKEN)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A",
        pair=f"{BOS_TOKEN} $A {BOS_TOKEN} $B",
        special_tokens=[(BOS_TOKEN, bos_id)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=BOS_TOKEN,
        eos_token=BOS_TOKEN,
        pad_token=BOS_TOKEN,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Reads the tokenizer that `train_tokenizer` made and `save_pretrained` wrote."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        folder, local_files_only=True
    )
    return tokenizer


def bos_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the token that begins and ends every story."""
    return int(tokenizer.get_vocab()[BOS_TOKEN])


def encode_stories(tokenizer: PreTrainedTokenizerFast, stories: Sequence[str]) -> list[list[int]]:
    """Token ids of each story, without BOS; a story may be longer than the model's context."""
    encodings = tokenizer.backend_tokenizer.encode_batch(list(stories), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
