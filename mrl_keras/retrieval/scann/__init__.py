"""ScaNN over one prefix, which finds shortlists: its parameters and its searcher."""
