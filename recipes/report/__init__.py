"""The report of trained runs: scripts here, pages and parts in folders."""
