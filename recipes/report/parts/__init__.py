"""What the pages of the report share."""
