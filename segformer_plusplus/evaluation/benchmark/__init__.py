"""Measures speed and memory of models and strategies, in turn, once their logits are equal."""
