"""Object detection for kdcore."""
