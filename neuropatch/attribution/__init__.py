"""Attribution scores of weights, accumulated in one forward and backward pass."""
