"""What prefixes hold: disagreement, cosines, heat maps."""
