"""The parts of `evaluate`: plans, clips, samples and reports."""
