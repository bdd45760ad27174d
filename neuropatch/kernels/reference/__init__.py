"""The slow, obvious implementation of each operator: the definition that the kernels must meet.

They run on any device and in float64 as well, and serve wherever no compiled kernel does. One
module a family of operators, as in :mod:`neuropatch.kernels`.
"""

from __future__ import annotations
