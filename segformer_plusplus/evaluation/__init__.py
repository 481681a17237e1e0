"""Measures speed (benchmark) and accuracy (fidelity), and searches for the best (tuning)."""
