"""Exact search: the neighbours of every prefix in one pass over the database."""
