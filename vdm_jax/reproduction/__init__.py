"""Tables of the papers: their rows, how these are made, kept and priced."""
