"""Architectures as data, and the coordinates that every other layer speaks in.

An architecture is one JSON file in ``_data/architectures``: where each role of each block is
stored, on disk and in memory. :class:`~neuropatch.models.layout.Layout` binds a definition to a
model's sizes; :mod:`~neuropatch.models.modules` resolves it against a module tree (and is the
only module here that loads torch).
"""
