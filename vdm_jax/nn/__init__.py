"""Networks in flax.linen; arguments are numbers and tuples, never a config."""
