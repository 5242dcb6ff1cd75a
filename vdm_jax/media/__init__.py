"""Reading and writing video, and the gallery."""
