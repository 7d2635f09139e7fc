"""Images with captions: sets and pipelines."""
