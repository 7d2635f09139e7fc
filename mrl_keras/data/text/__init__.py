"""Text: sets, streams, WordPiece, masked language modelling."""
