"""Losses of object detection."""
