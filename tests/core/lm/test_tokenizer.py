"""Ids, byte offsets, marks and streamed text are what the text says."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.models import BOS, EOS, MODEL, USER, build_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from saekit_core.lm.chat import ChatMessage
from saekit_core.lm.errors import TokenizationError
from saekit_core.lm.tokenizer import LMTokenizer, byte_positions

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECES = st.lists(
    st.sampled_from(["the cat ", "é", "日本", "😀", BOS, EOS, USER, " ", "\n", "\x00", "ß sat"]),
    max_size=12,
).map("".join)


def make(hf: PreTrainedTokenizerFast, **options: bool) -> LMTokenizer:
    return LMTokenizer(hf, d_vocab=len(hf) + 3, **options)


PLAIN = make(build_tokenizer())
ADDS_BOS = make(build_tokenizer(adds_bos=True))
NO_CHAT = make(build_tokenizer(chat=False))


@pytest.fixture(params=["plain", "adds_bos"])
def tokenizer(request: pytest.FixtureRequest) -> LMTokenizer:
    return {"plain": PLAIN, "adds_bos": ADDS_BOS}[request.param]


@pytest.mark.parametrize("tok", [PLAIN, ADDS_BOS], ids=["plain", "adds_bos"])
@given(text=TEXT | PIECES, prepend=st.sampled_from([True, False, None]))
def test_bos_is_there_once_when_wanted_and_only_from_the_text_when_not(
    tok: LMTokenizer, text: str, prepend: bool | None
) -> None:
    if not text and prepend is False:
        with pytest.raises(TokenizationError, match="gives no token"):
            tok.encode_text(text, prepend)
        return
    row = tok.encode_text(text, prepend)
    wanted = prepend is not False
    assert row.has_bos == (wanted or text.startswith(BOS))
    assert int((row.ids == tok.bos_id).sum()) == text.count(BOS) + (
        wanted and not text.startswith(BOS)
    )


@given(text=TEXT | PIECES)
def test_byte_offsets_point_at_what_each_token_says(text: str) -> None:
    row = PLAIN.encode_text(text, prepend_bos=True)
    raw = text.encode()
    begin, end = row.byte_offsets.T.astype(int)
    assert (begin <= end).all()
    assert (np.diff(begin) >= 0).all()
    assert end[-1] == len(raw)
    covered = np.zeros(len(raw), bool)
    for token, b, e in zip(row.ids, begin, end, strict=True):
        covered[b:e] = True
        said = raw[b:e].decode()  # offsets never cut a character
        piece = PLAIN.decode([token])
        assert piece == said or "\ufffd" in piece or b == e
    assert covered.all()


@given(text=TEXT | PIECES)
def test_decoding_gives_the_text_back(text: str) -> None:
    assert PLAIN.decode(PLAIN.encode_text(text, True).ids) in (BOS + text, text)


@given(ids=st.lists(st.integers(0, len(PLAIN.hf) - 1), max_size=40))
def test_streamed_text_concatenates_to_the_decoded_text(ids: list[int]) -> None:
    stream = PLAIN.new_detokenizer()
    deltas = [stream.push(i) for i in ids]
    assert "".join([*deltas, stream.flush()]) == PLAIN.decode(ids)


@given(text=TEXT | PIECES)
def test_streamed_text_never_holds_half_a_character(text: str) -> None:
    stream = PLAIN.new_detokenizer()
    ids = PLAIN.encode_text(text, True).ids
    deltas = [stream.push(int(i)) for i in ids]
    assert "\ufffd" in text or not any("\ufffd" in d for d in deltas)
    assert "".join(deltas) + stream.flush() == PLAIN.decode(ids)


def byte_fallback_tokenizer() -> LMTokenizer:
    """SentencePiece's manner: words carry their space, other characters fall apart in bytes."""
    words = ["<unk>", "▁the", "▁cat", "s", "▁"]
    vocab = {token: i for i, token in enumerate([*words, *(f"<0x{b:02X}>" for b in range(256))])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return LMTokenizer(PreTrainedTokenizerFast(tokenizer_object=core), d_vocab=len(vocab))


FALLBACK = byte_fallback_tokenizer()


@given(
    ids=st.lists(
        st.integers(0, 4) | st.sampled_from([*"é日😀".encode(), 0xFF]).map(lambda b: b + 5),
        max_size=30,
    )
)
@example([b + 5 for b in (*"é".encode(), 0xFF)])  # a bad byte takes the good ones before it along
def test_streamed_text_of_a_byte_fallback_concatenates_too(ids: list[int]) -> None:
    stream = FALLBACK.new_detokenizer()
    deltas = [stream.push(i) for i in ids]
    assert "".join([*deltas, stream.flush()]) == FALLBACK.decode(ids)


@pytest.mark.parametrize("tok", [PLAIN, FALLBACK], ids=["plain", "fallback"])
@pytest.mark.parametrize("own", [False, True], ids=["fast", "own decoding"])
def test_text_is_what_transformers_says(tok: LMTokenizer, own: bool) -> None:
    class Shouting(PreTrainedTokenizerFast):
        def _decode(self, *args: object, **options: object) -> str:
            return super()._decode(*args, **options).upper()

    hf = Shouting(tokenizer_object=tok.hf.backend_tokenizer) if own else tok.hf
    decode = make(hf).decode
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, len(hf), n) for n in (0, 1, 1, 2, 7, 40) for _ in range(20)]
    expected = [hf.decode(row.tolist(), clean_up_tokenization_spaces=False) for row in rows]
    assert [decode(row) for row in rows] == expected
    assert [decode(row) for row in rows] == expected  # those that are remembered, too


def test_streamed_words_come_at_once() -> None:
    stream = FALLBACK.new_detokenizer()
    assert [stream.push(i) for i in (1, 2, 3, 1)] == ["the", " cat", "s", " the"]
    plain = PLAIN.new_detokenizer()
    ids = PLAIN.encode_text("The cat sat on 😀 the mat", False).ids
    assert [d for d in (plain.push(int(i)) for i in ids) if d] == [
        *(PLAIN.decode([i]) for i in ids[:4]),
        " ",
        "😀",
        *(PLAIN.decode([i]) for i in ids[-2:]),
    ]


@given(text=TEXT)
@example("\x7f\x80\u07ff\u0800\uffff\U00010000")
def test_byte_positions_are_those_of_utf8(text: str) -> None:
    expected = [len(text[:i].encode()) for i in range(len(text) + 1)]
    assert byte_positions(text).tolist() == expected


def test_no_bos_means_none_by_default_and_a_clear_error_when_asked() -> None:
    assert FALLBACK.bos_id is None
    assert not FALLBACK.encode_text("▁the").has_bos
    with pytest.raises(TokenizationError, match="has no BOS token") as caught:
        FALLBACK.encode_text("▁the", prepend_bos=True)
    assert caught.value.field == "prepend_bos"


def test_default_prepend_bos_is_the_models() -> None:
    tokenizer = make(build_tokenizer(), default_prepend_bos=False)
    assert not tokenizer.encode_text("the cat").has_bos
    assert tokenizer.encode_text("the cat", prepend_bos=True).has_bos


def test_long_text_is_never_truncated(tokenizer: LMTokenizer) -> None:
    tokenizer.hf.model_max_length = 16
    try:
        assert len(tokenizer.encode_text("the cat sat " * 200)) > 600
    finally:
        tokenizer.hf.model_max_length = int(1e30)


def test_special_tokens_are_marked_wherever_they_stand() -> None:
    row = PLAIN.encode_text(f"the {USER}cat{EOS}")
    assert [PLAIN.decode([i]) for i in row.ids[row.special]] == [BOS, USER, EOS]


def test_half_a_surrogate_pair_is_refused_by_place() -> None:
    with pytest.raises(TokenizationError, match="character 3 is half of a surrogate") as caught:
        PLAIN.encode_text("abc\ud800")
    assert caught.value.field == "text"


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_id_out_of_range_is_named(bad: int) -> None:
    with pytest.raises(TokenizationError, match=f"token id {bad} is not in 0..") as caught:
        PLAIN.from_ids([1, 2, bad, 4])
    assert caught.value.field == "tokens[2]"


@pytest.mark.parametrize("bad", [[], [[1, 2]], [1.5]])
def test_what_is_not_a_row_of_ids_is_refused(bad: list[int]) -> None:
    with pytest.raises(TokenizationError) as caught:
        PLAIN.from_ids(bad)
    assert caught.value.field == "tokens"


def test_ids_are_untouched() -> None:
    last = PLAIN.d_vocab - 1  # an embedding without a token
    row = PLAIN.from_ids([7, 0, last])
    assert row.ids.tolist() == [7, 0, last]
    assert not row.has_bos
    assert row.special.tolist() == [False, True, False]
    assert row.byte_offsets.tolist() == [[0, 0]] * 3
    assert PLAIN.from_ids(np.array([0, 7], np.uint32)).has_bos


CHAT = [
    ChatMessage("user", "the cat 😀"),
    ChatMessage("model", "sat on"),
    ChatMessage("user", "  the mat "),
]


def spans(row_of: LMTokenizer, messages: list[ChatMessage]) -> list[str]:
    row = row_of.encode_chat(messages)
    assert row.message_index is not None
    return [row_of.decode(row.ids[row.message_index == i]) for i in range(-1, len(messages))]


def test_chat_is_rendered_untouched_and_each_token_knows_its_message(
    tokenizer: LMTokenizer,
) -> None:
    row = tokenizer.encode_chat(CHAT, add_generation_prompt=True)
    assert row.text == f"{BOS}{USER}the cat 😀\n{MODEL}sat on\n{USER}the mat\n{MODEL}"
    assert tokenizer.decode(row.ids) == row.text
    assert row.roles == ("user", "model", "user")
    assert int((row.ids == tokenizer.bos_id).sum()) == 1
    assert row.has_bos
    assert row.byte_offsets[-1, 1] == len(row.text.encode())
    assert spans(tokenizer, CHAT) == [
        BOS + MODEL,
        f"{USER}the cat 😀\n",
        f"{MODEL}sat on\n",
        f"{USER}the mat\n",
    ]


def test_messages_are_found_where_a_template_refuses_beginnings() -> None:
    hf = build_tokenizer()
    hf.chat_template = (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('must end with user') }}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    )
    assert spans(make(hf), [*CHAT[:2], ChatMessage("user", "the mat")]) == [
        "",
        f"{USER}the cat 😀\n",
        f"{MODEL}sat on",
        f"\n{USER}the mat\n",
    ]


def test_messages_are_found_where_a_template_renders_beginnings_differently() -> None:
    hf = build_tokenizer()
    hf.chat_template = (
        "{{ messages | length }} of them: {% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% endfor %}"
    )
    assert spans(make(hf), CHAT[:2]) == ["", f"2 of them: {USER}the cat 😀", f"{MODEL}sat on"]


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(TokenizationError, match="has no chat template") as caught:
        NO_CHAT.encode_chat(CHAT)
    assert caught.value.field == "chat"


def test_what_the_template_refuses_is_refused_in_its_words() -> None:
    with pytest.raises(TokenizationError, match="unknown role wizard"):
        PLAIN.encode_chat([ChatMessage("wizard", "hm")])
    with pytest.raises(TokenizationError, match="at least one message"):
        PLAIN.encode_chat([])
