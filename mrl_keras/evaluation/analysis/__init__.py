"""Analysis of prefixes: disagreement, cosines, heat maps."""
