"""Feature networks, distances, scores and the protocols that use them."""
