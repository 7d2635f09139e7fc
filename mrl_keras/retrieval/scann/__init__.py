"""Shortlists by ScaNN."""
