"""Checkpoints on disk: sharded safetensors, edited in place at byte offsets, without torch."""
