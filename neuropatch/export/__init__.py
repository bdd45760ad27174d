"""Patches as files of other programs."""
