"""Data whose labels are boxes: a picture, and where what is in it."""
