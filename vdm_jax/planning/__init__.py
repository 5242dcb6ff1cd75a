"""The parts of `plan`: targets, programs, their costs and the search."""
