"""Fairness of classifiers: the audit against distribution inference, and its repair by FFt."""
