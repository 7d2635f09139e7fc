"""Labelled images: sets, pipelines, augmentation, corruptions."""
