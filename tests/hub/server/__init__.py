"""A Hugging Face Hub in miniature, for the unmodified clients.

By hand, from the repository's root:

    python -m tests.hub.server --port 8000 --root /tmp/hub --serve ada/base=path/to/model

It prints the lines to paste into another shell, after which ``hf``, ``neuropatch`` and
``transformers`` there work against it until it is stopped.
"""

from .hub import FakeHub

__all__ = ["FakeHub"]
