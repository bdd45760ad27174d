"""Checkpoints on disk: sharded safetensors, edited at byte offsets, without torch.

- :mod:`~neuropatch.checkpoint.index` finds a folder's shards and where in them a matrix lies.
- :mod:`~neuropatch.checkpoint.plan` checks a patch against them and works out every new value.
- :mod:`~neuropatch.checkpoint.apply` writes: a new folder, or the same one in place.
- :mod:`~neuropatch.checkpoint.diff` makes a patch of what differs between two checkpoints.

A new folder holds the weights that were edited and the files beside them; subfolders and weights
in other formats are left out, and the result names them. Neuropatch's own files of a model (the
undo patches) lie in its subfolder ``neuropatch/``, since loaders take every ``*.safetensors`` of
the folder itself for weights.
"""
