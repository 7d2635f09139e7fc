"""Choosing a search plan on held-out queries."""
