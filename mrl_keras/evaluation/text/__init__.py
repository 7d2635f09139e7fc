"""Similarity of sentence pairs at every prefix."""
