"""Models in GGUF files, edited at byte offsets, without torch.

- :mod:`~neuropatch.gguf.file` reads and checks a file's header.
- :mod:`~neuropatch.gguf.names` finds the place of a matrix in it.
- :mod:`~neuropatch.gguf.formats` knows where blocks of quantised weights keep their levels.
- :mod:`~neuropatch.gguf.plan` checks a patch against the file and works out the new blocks.
- :mod:`~neuropatch.gguf.apply` writes a copy with those blocks; :mod:`~neuropatch.gguf.diff` makes
  a patch of what differs between two files.

A quantised weight is one of a few levels on a scale that its block shares. An edit keeps the scale
and moves the level to the one that is nearest to the new value: the other weights of the block
keep their bits, and the same step back restores the bytes. The decoding of blocks and the names of
tensors are those of the ``gguf`` package.
"""
