"""Speed and memory of models and strategies, timed in turn, logits checked first."""
