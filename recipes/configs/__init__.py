"""Configurations, one file each; `*_defaults.py` hold what several share."""
