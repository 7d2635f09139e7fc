"""The choice of a search plan, measured on held-out queries."""
