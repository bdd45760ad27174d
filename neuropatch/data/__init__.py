"""Corpora: from a file or a Hub data set to tokenised samples, windows and batches.

The lowest layer of neuropatch. Reading, choosing columns, sampling and tokenising need no torch;
:mod:`neuropatch.data.batching` is the only module that does.

Rows are numbered from 0 in everything that is stored (the row after a CSV header is row 0), and
from 1 in every sentence for people: the first row is "row 1".
"""
