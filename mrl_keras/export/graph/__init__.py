"""The graph code of an exported model."""
