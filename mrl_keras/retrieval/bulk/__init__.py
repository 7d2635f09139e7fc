"""Bulk search: the answers of many queries on disk, resumable."""
