"""Retrieval quality and cost at every prefix."""
