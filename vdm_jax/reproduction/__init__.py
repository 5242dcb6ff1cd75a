"""Tables of the papers: how their rows are made, kept, shown and priced."""
