"""Methods: each module finds weights or units by one published method and makes a patch.

A module without a leading underscore is a method: it defines ``METHOD``, a
:class:`~neuropatch.methods._base.Method`, and is found by its name.
"""
