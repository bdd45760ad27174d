from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.data.columns import Example
from neuropatch.data.tokenize import Sample, encode, special_prefix, text_windows, windows
from neuropatch.errors import DataError, UsageError

# Machines under load are slow; the tests make no claim about time.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
OPENING = "{% if add_generation_prompt %}<s>assistant: {% endif %}"
PAIR = Example(4, "Where does Ada Lund live?", "I cannot share that.")


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def run(tokenizer, *examples: Example, **options):
    return encode(examples, tokenizer, source="people.csv", **options)


def failure(tokenizer, *examples: Example, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        run(tokenizer, *examples, **options)
    return caught.value


def test_prefix_is_what_stands_before_a_text(plain_tokenizer, bos_tokenizer, bos_eos_tokenizer):
    assert special_prefix(plain_tokenizer) == []
    assert special_prefix(bos_tokenizer) == [0]
    assert special_prefix(bos_eos_tokenizer) == [0]


def test_prefix_that_cannot_be_told(plain_tokenizer):
    class Changing:
        chat_template = None

        def __call__(self, text, **options):
            return {"input_ids": [[1] if options["add_special_tokens"] else [2]]}

        def apply_chat_template(self, conversation, **options):
            raise NotImplementedError

    with pytest.raises(DataError, match="differently"):
        special_prefix(Changing())


@relaxed
@given(prompt=st.text(max_size=30), response=st.text(min_size=1, max_size=30))
def test_prompt_and_response_are_joined_and_nothing_is_lost(
    plain_tokenizer, bos_tokenizer, bos_eos_tokenizer, prompt, response
):
    example = Example(0, prompt, response)
    for tokenizer, prefix in (
        (plain_tokenizer, []),
        (bos_tokenizer, [0]),
        (bos_eos_tokenizer, [0]),
    ):
        head = prefix + ids(tokenizer, prompt)
        tail = ids(tokenizer, response)
        if len(head) + len(tail) < 2:
            assert "no token to predict" in failure(tokenizer, example).message
            continue
        (sample,) = run(tokenizer, example).samples
        assert sample.ids == head + tail
        assert sample.label_start == max(1, len(head))


def test_the_first_token_of_a_response_is_a_label(plain_tokenizer, bos_tokenizer):
    # The released code of SPIN loses it where the tokenizer adds no BOS.
    for tokenizer in (plain_tokenizer, bos_tokenizer):
        (sample,) = run(tokenizer, PAIR).samples
        assert sample.row == 4
        assert sample.ids[sample.label_start :] == ids(tokenizer, PAIR.response)
        assert sample.label_count == len(ids(tokenizer, PAIR.response))


def test_no_eos_is_added(bos_eos_tokenizer):
    (sample,) = run(bos_eos_tokenizer, PAIR).samples
    assert bos_eos_tokenizer.eos_token_id not in sample.ids


def test_plain_text_starts_at_the_first_token_that_can_be_predicted(plain_tokenizer, bos_tokenizer):
    text = Example(0, "", "the cat sat")
    tokens = ids(plain_tokenizer, text.response)
    assert run(plain_tokenizer, text).samples == (Sample(0, tokens, 1),)
    assert run(bos_tokenizer, text).samples == (Sample(0, [0, *tokens], 1),)


def test_chat_template(make_tokenizer):
    tokenizer = make_tokenizer("<s> $A", chat_template=TEMPLATE + OPENING)
    (sample,) = run(tokenizer, PAIR, chat_template=True).samples
    prompt = ids(tokenizer, f"<s>user: {PAIR.prompt}</s><s>assistant: ")
    assert sample.ids == prompt + ids(tokenizer, PAIR.response)
    assert sample.label_start == len(prompt)


def test_chat_template_that_is_not_there(make_tokenizer, plain_tokenizer):
    assert "no chat template" in failure(plain_tokenizer, PAIR, chat_template=True).message
    tokenizer = make_tokenizer(chat_template=TEMPLATE)
    text = Example(2, "", "a text")
    error = failure(tokenizer, PAIR, text, chat_template=True)
    assert error.message == "people.csv: row 3 has no prompt to put into the chat template"


def test_truncation_is_counted(plain_tokenizer):
    long = Example(0, "a", "the cat sat " * 5)
    short = Example(1, "a", "b")
    (whole, _) = run(plain_tokenizer, long, short).samples
    cut = run(plain_tokenizer, long, short, max_length=6)
    assert cut.samples[0].ids == whole.ids[:6]
    assert cut.samples[0].label_start == whole.label_start
    assert (cut.truncated, cut.dropped_tokens) == (1, len(whole.ids) - 6)
    assert cut.label_count == sum(sample.label_count for sample in cut.samples)
    exact = run(plain_tokenizer, long, max_length=len(whole.ids))
    assert (exact.truncated, exact.dropped_tokens) == (0, 0)


def test_rows_without_labels_are_named(plain_tokenizer):
    long = [Example(row, "xyz " * 9, "b") for row in range(0, 24, 2)]
    prompt = len(ids(plain_tokenizer, long[0].prompt))
    error = failure(plain_tokenizer, *long, PAIR, max_length=prompt)
    assert "rows 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 2 more (12 in all) have" in error.message
    assert f"raise --max-length above {prompt}" in (error.hint or "")
    kept = run(plain_tokenizer, *long, PAIR, max_length=prompt + 1)
    assert [sample.label_count for sample in kept.samples[:-1]] == [1] * 12
    assert "rows 1, 3 have" in failure(plain_tokenizer, *long[:2], max_length=prompt).message


def test_empty_responses_are_named(plain_tokenizer, bos_tokenizer):
    error = failure(plain_tokenizer, PAIR, Example(6, "Who?", ""), max_length=512)
    assert error.message.startswith("people.csv: row 7 has no token to predict")
    assert run(bos_tokenizer, Example(0, "", "a")).label_count == 1
    assert "no token to predict" in failure(plain_tokenizer, Example(0, "", "a")).message


def test_max_length_without_room(plain_tokenizer):
    with pytest.raises(UsageError):
        run(plain_tokenizer, PAIR, max_length=1)


@relaxed
@given(st.integers(0, 50), st.integers(2, 12), st.booleans())
def test_windows_score_every_token_once(tokens, length, bos):
    text = list(range(100, 100 + tokens))
    prefix = [0] if bos else []
    cut = windows(text, length, prefix=prefix)
    assert [window.row for window in cut] == list(range(len(cut)))
    assert all(len(window.ids) <= length for window in cut)
    assert all(window.ids[: len(prefix)] == prefix for window in cut)
    joined = [token for window in cut for token in window.ids[len(prefix) :]]
    scored = [token for window in cut for token in window.ids[window.label_start :]]
    if bos:
        assert joined == scored == text
    else:
        # A last window of a single token has nothing to predict.
        assert joined == (text[:-1] if tokens % length == 1 else text)
        assert scored == [token for place, token in enumerate(text) if place % length]


def test_windows_need_room():
    with pytest.raises(UsageError):
        windows([1, 2, 3], 1)
    with pytest.raises(UsageError):
        windows([1, 2, 3], 2, prefix=[8, 9])


def test_text_windows(plain_tokenizer, bos_tokenizer):
    text = "the cat sat. " * 20
    tokens = ids(plain_tokenizer, text)
    cut = text_windows([text], bos_tokenizer, 16)
    assert sum(window.label_count for window in cut) == len(tokens)
    assert {window.ids[0] for window in cut} == {0}
    with pytest.raises(DataError, match="has 1 tokens, too few"):
        text_windows(["a"], plain_tokenizer, 16)


def test_no_window_spans_two_documents(plain_tokenizer, bos_tokenizer):
    documents = ["the cat sat. " * 7, "a", "the cat. " * 9]
    cut = text_windows(documents, bos_tokenizer, 16)
    assert [window.row for window in cut] == list(range(len(cut)))
    apart = [window.ids for one in documents for window in text_windows([one], bos_tokenizer, 16)]
    assert [window.ids for window in cut] == apart
    # Without a BOS nothing predicts the only token of the second document.
    assert all(window.label_count for window in text_windows(documents, plain_tokenizer, 16))
