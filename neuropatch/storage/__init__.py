"""Number formats and safetensors files, on NumPy alone.

The lowest layer: patches and checkpoints are read and edited through it, so nothing here (and
nothing built on it alone) loads torch. The safetensors library reads whole tensors; editing
values in place needs their byte offsets, which only the header tells.
"""
