from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.data.pii import tokens
from neuropatch.data.pii.records import Record, Span
from neuropatch.data.pii.tokens import encode_records
from neuropatch.errors import DataError, UsageError

PHONE = Record(3, "the phone is 555-0100 now", (Span(13, 21, "phone"),))


def marked_text(tokenizer, sample) -> str:
    ids = [i for i, span in zip(sample.ids, sample.span_of, strict=True) if span >= 0]
    return tokenizer.decode(ids)


def test_the_tokens_of_a_span_are_marked(plain_tokenizer):
    encoded = encode_records([PHONE], plain_tokenizer)
    (sample,) = encoded.samples
    assert plain_tokenizer.decode(sample.ids) == PHONE.text
    assert marked_text(plain_tokenizer, sample).strip() == "555-0100"
    assert (sample.row, sample.label_start, sample.categories) == (3, 1, ("phone",))
    assert sample.pii_count == sum(span == 0 for span in sample.span_of)
    assert encoded.unmapped == {}


def test_a_bos_is_no_personal_data(bos_tokenizer):
    record = Record(0, "Ada", (Span(0, 3, "name"),))
    (sample,) = encode_records([record], bos_tokenizer).samples
    assert sample.span_of[0] == -1
    assert sample.label_start == 1
    assert sample.pii_count == len(sample.ids) - 1


def test_a_first_token_that_nothing_predicts_is_counted(plain_tokenizer):
    lonely = Record(0, "A b", (Span(0, 1, "name"),))
    both = Record(1, "A b A", (Span(0, 1, "name"), Span(4, 5, "name")))
    encoded = encode_records([lonely, both], plain_tokenizer)
    assert encoded.without == (0,)
    assert encoded.unmapped == {tokens.FIRST: 2}
    assert [sample.row for sample in encoded.samples] == [1]


def test_a_token_that_straddles_is_personal_data_and_counted(plain_tokenizer):
    # "the" is one token of this tokenizer; the span has its last two letters.
    record = Record(0, "xx the", (Span(4, 6, "name"),))
    encoded = encode_records([record], plain_tokenizer)
    assert marked_text(plain_tokenizer, encoded.samples[0]).strip() == "the"
    assert encoded.straddling == 1


def test_a_token_of_two_spans_goes_to_the_larger(plain_tokenizer):
    record = Record(0, "xx the", (Span(3, 4, "a"), Span(4, 6, "b")))
    encoded = encode_records([record], plain_tokenizer)
    sample = encoded.samples[0]
    assert {sample.categories[span] for span in sample.span_of if span >= 0} == {"b"}
    assert encoded.unmapped == {tokens.SWALLOWED: 1}


def test_characters_of_several_bytes(plain_tokenizer):
    record = Record(0, "von Zoë Ł. da", (Span(4, 7, "name"),))
    (sample,) = encode_records([record], plain_tokenizer).samples
    assert marked_text(plain_tokenizer, sample).strip() == "Zoë"


def test_what_is_cut_off_is_counted(plain_tokenizer):
    encoded = encode_records(
        [PHONE, Record(4, "x y z", (Span(2, 3, "name"),))], plain_tokenizer, max_length=5
    )
    assert encoded.unmapped == {tokens.CUT: 1}
    assert encoded.truncated == 1
    assert encoded.without == (3,)
    with pytest.raises(UsageError, match="--max-length is 1"):
        encode_records([PHONE], plain_tokenizer, max_length=1)


def test_a_slow_tokenizer_is_refused(plain_tokenizer):
    class Slow:
        chat_template = None

        def __call__(self, text, **options):
            if options.get("return_offsets_mapping"):
                raise NotImplementedError("python tokenizers do not have this")
            return plain_tokenizer(text, **options)

        def apply_chat_template(self, conversation, **options):
            raise NotImplementedError

    with pytest.raises(DataError, match="does not tell which characters"):
        encode_records([PHONE], Slow())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(min_size=2, max_size=30), data=st.data())
def test_every_character_of_a_span_is_in_a_marked_token(bos_tokenizer, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    encoded = encode_records([Record(0, text, (Span(start, end, "x"),))], bos_tokenizer)
    if text[start:end].isspace():
        assert encoded.unmapped == {tokens.NO_TOKEN: 1}
        return
    (sample,) = encoded.samples
    offsets = bos_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for (first, last), span in zip(offsets["offset_mapping"], sample.span_of[1:], strict=True):
        inside = any(start <= i < end and not text[i].isspace() for i in range(first, last))
        assert inside == (span == 0)


BOTH = Record(
    0, "Ada has 555-0100 and ada@x.org now", (Span(8, 16, "phone"), Span(21, 30, "email"))
)


def counted_text(tokenizer, sample) -> str:
    ids = [i for i, counts in zip(sample.ids, sample.counted, strict=True) if counts]
    return "".join(tokenizer.decode(ids).split())


def test_labels_of_the_secret_and_of_the_rest_are_all_labels(plain_tokenizer):
    (sample,) = encode_records([BOTH], plain_tokenizer).samples
    secret, rest = sample.secret(), sample.rest()
    assert counted_text(plain_tokenizer, secret) == "555-0100ada@x.org"
    assert counted_text(plain_tokenizer, sample.secret({"email"})) == "ada@x.org"
    assert secret.label_count == sample.pii_count
    assert secret.label_count + rest.label_count == sample.label_count
    assert not any(a and b for a, b in zip(secret.counted, rest.counted, strict=True))
    assert [t for t in secret.targets(-100) if t != -100] == [
        token for token, counts in zip(sample.ids, secret.counted, strict=True) if counts
    ]
    for masked in (secret, rest):
        pairs = zip(secret.targets(-100), rest.targets(-100), strict=True)
        merged = [b if a == -100 else a for a, b in pairs]
        assert merged == sample.targets(-100)
        assert len(masked.targets(-100)) == len(sample.ids) - 1


def test_a_text_of_personal_data_alone_has_no_rest(bos_tokenizer):
    (sample,) = encode_records([Record(0, "Ada", (Span(0, 3, "name"),))], bos_tokenizer).samples
    assert sample.rest() is None
