"""Recipes: scripts that train, evaluate, export and query; run as files or with `python -m`."""
