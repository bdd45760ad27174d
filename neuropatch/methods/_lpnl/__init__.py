"""The parts of LPNL: gates, objective, the order of samples, learning, saved state."""
