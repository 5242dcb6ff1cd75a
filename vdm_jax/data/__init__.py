"""Sources of clips, and the pipeline from them to batches."""
