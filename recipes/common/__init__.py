"""What the recipes' scripts share."""
