"""Nets for pictures."""
