"""The nested index: prefix blocks and norms, their building, and their search."""
