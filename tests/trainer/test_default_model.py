"""The script that makes the embedded default model, run small."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from saekit_trainer.default_model.__main__ import main
from saekit_trainer.default_model.corpus import read_corpus, training_rows
from saekit_trainer.default_model.muon import orthogonalize
from saekit_trainer.default_model.pretrain import story_loss
from saekit_trainer.default_model.record import TrainingRecord, read_record
from saekit_trainer.default_model.saving import round_to_bfloat16
from saekit_trainer.default_model.tokenizer import (
    encode_stories,
    load_tokenizer,
    train_tokenizer,
)

NAMES, ANIMALS, PLACES = ("Mia", "Ben", "Sue"), ("cat", "dog", "duck", "fox"), ("park", "barn")


def made_up_stories(n: int) -> list[str]:
    rng = random.Random(0)
    return [
        f"{rng.choice(NAMES)} saw a {rng.choice(ANIMALS)} in the {rng.choice(PLACES)}.\n"
        f'"Hello, {rng.choice(ANIMALS)}!" They were “happy”.'
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(made_up_stories(60)), encoding="utf-8")
    return path


def make_small_model(text_file: Path, out: Path) -> TrainingRecord:
    arguments = {
        "text": text_file,
        "out": out,
        "vocab-size": 320,
        "threads": 1,
        "shape.n-layers": 2,
        "shape.d-model": 32,
        "shape.d-mlp": 48,
        "shape.n-heads": 2,
        "shape.context": 96,
        "training.steps": 25,
        "training.batch-size": 4,
    }
    main([part for name, value in arguments.items() for part in (f"--{name}", str(value))])
    return read_record(out)


@pytest.fixture(scope="module")
def made(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingRecord]:
    out = tmp_path_factory.mktemp("model")
    return out, make_small_model(text_file, out)


@pytest.fixture(scope="module")
def small_tokenizer(made: tuple[Path, TrainingRecord]) -> PreTrainedTokenizerFast:
    return load_tokenizer(made[0])


def test_training_lowers_the_loss_on_stories_never_seen(
    made: tuple[Path, TrainingRecord],
) -> None:
    _, record = made
    untrained = torch.tensor(record.vocab_size).log().item()
    assert record.held_out_loss.nats_per_token < 0.6 * untrained
    assert record.held_out_loss.n_stories == 3
    assert record.stories_trained_on == 57


def test_the_saved_model_is_the_one_that_was_measured(
    made: tuple[Path, TrainingRecord], text_file: Path
) -> None:
    folder, record = made
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert isinstance(model, LlamaForCausalLM)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.dtype == torch.float32
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - tied, so kept once
    held_out = read_corpus(text_file).held_out
    again = story_loss(model, held_out, encode_stories(tokenizer, held_out))
    assert again.nats_per_token == pytest.approx(record.held_out_loss.nats_per_token, rel=1e-6)
    assert again.n_tokens == record.held_out_loss.n_tokens


def test_rounding_a_loaded_model_changes_nothing(made: tuple[Path, TrainingRecord]) -> None:
    model = LlamaForCausalLM.from_pretrained(made[0], local_files_only=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_to_bfloat16(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_file(
    made: tuple[Path, TrainingRecord], text_file: Path, tmp_path: Path
) -> None:
    make_small_model(text_file, tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (made[0] / name).read_bytes(), name


def test_the_card_says_what_was_measured(made: tuple[Path, TrainingRecord]) -> None:
    folder, record = made
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{record.held_out_loss.nats_per_token:.3f}" in card
    assert f"{record.train_loss.nats_per_token:.3f}" in card
    assert f"{record.n_parameters:,}" in card
    assert "CDLA-Sharing-1.0" in card
    for sample in record.samples:
        assert sample.prompt in card


def test_text_without_enough_stories_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One story.\n<|endoftext|>\nAnother.", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.txt: found 2 stories .* expected at least 20"):
        read_corpus(path)


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 256: expected more than 257"):
        train_tokenizer(["text"], vocab_size=256, max_length=8)


def test_held_out_stories_are_never_trained_on(text_file: Path) -> None:
    text = text_file.read_text(encoding="utf-8")
    corpus = read_corpus(text_file)
    assert len(corpus.train) + len(corpus.held_out) == text.count("<|endoftext|>") + 1
    assert corpus.held_out[1] == made_up_stories(21)[20]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    row_length=st.integers(2, 24),
    seed=st.integers(0, 99),
)
def test_every_row_opens_a_story_and_every_story_that_fits_comes_whole(
    lengths: list[int], row_length: int, seed: int
) -> None:
    bos = 0
    stories = [[index + 1] * length for index, length in enumerate(lengths)]
    rows = training_rows(stories, row_length=row_length, bos_id=bos, seed=seed)
    # Two epochs fit into this many rows, even if each story had rows of its own.
    seen = list(itertools.islice(rows, 4 * len(stories)))
    assert all(len(row) == row_length and row[0] == bos for row in seen)
    whole = {tuple(story) for row in seen for story in _stories_in(row, bos)}
    for story in stories:
        assert tuple(story[: row_length - 1]) in whole


def _stories_in(row: list[int], bos: int) -> list[list[int]]:
    groups = itertools.groupby(row, key=lambda token: token == bos)
    return [list(tokens) for is_bos, tokens in groups if not is_bos]


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 16), (2, 48, 16), (2, 16, 48)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
        assert values.min() > 0.3
        assert values.max() < 1.3


@settings(max_examples=150)
@example("“Hi,” said Zoë.\r\n\t🙂👩‍👩‍👧 漢字  ")
@given(text=st.text())
def test_any_text_comes_back_with_offsets_of_its_own_characters(
    small_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    tokenizer = small_tokenizer
    encoding = tokenizer.backend_tokenizer.encode(text)
    assert encoding.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(encoding.ids, skip_special_tokens=True) == text

    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
    character_of_byte = [i for i, char in enumerate(text) for _ in char.encode()]
    position = 0
    for token, (start, end) in zip(encoding.tokens[1:], encoding.offsets[1:], strict=True):
        token_bytes = bytes(byte_of[char] for char in token)
        stop = position + len(token_bytes)
        assert token_bytes == text.encode()[position:stop]
        assert (start, end) == (character_of_byte[position], character_of_byte[stop - 1] + 1)
        position = stop
    assert position == len(text.encode())
