"""Bulk search: many queries, their answers on disk, continued after an interruption."""
