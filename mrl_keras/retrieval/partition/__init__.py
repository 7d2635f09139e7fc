"""A partition of the rows by one prefix, whose leaves are searched by another."""
