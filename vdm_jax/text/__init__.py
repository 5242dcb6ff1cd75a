"""Text encoders, the cache of their embeddings, and captions."""
