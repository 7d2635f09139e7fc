"""Shared parts of the report's pages."""
