"""Neuron patches: the format, the algebra, and applying them to a model in memory."""
