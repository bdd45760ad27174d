"""What a patch does to a model: perplexity, divergence and preference, beside a random control."""
