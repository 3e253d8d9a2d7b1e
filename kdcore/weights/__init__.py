"""Weights from outside: where they are, what is in the file, and whether they fit the net."""
