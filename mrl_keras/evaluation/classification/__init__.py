"""Accuracy of embeddings and logits at every prefix."""
