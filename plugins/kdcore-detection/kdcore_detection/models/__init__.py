"""Nets that find boxes."""
