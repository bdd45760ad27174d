"""What of a data set counts: the personal data of marked records, else its responses."""

from __future__ import annotations

from collections.abc import Sequence

from neuropatch.data.corpus import Corpus
from neuropatch.data.pii.corpus import PiiCorpus
from neuropatch.data.tokenize import Sample


def behaviour_samples(corpus: Corpus | PiiCorpus) -> Sequence[Sample]:
    """The samples of a data set, with the tokens as labels whose likelihood is its behaviour."""
    if isinstance(corpus, PiiCorpus):
        return [sample.secret() for sample in corpus.samples]
    return corpus.samples
