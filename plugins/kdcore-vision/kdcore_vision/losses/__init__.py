"""Published losses that need a head or a token of their own."""
