"""The nested index: its tables, their building, and their files."""
