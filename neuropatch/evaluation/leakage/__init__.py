"""How much of memorised secrets a model gives away.

``scores`` reads a secret's tokens in one forward pass; ``extraction`` and ``membership`` are
computed from that alone. ``exposure`` compares a secret with candidates of the same format.
"""
