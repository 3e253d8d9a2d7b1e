"""Data whose labels are maps: an image, and a class for each of its pixels."""
