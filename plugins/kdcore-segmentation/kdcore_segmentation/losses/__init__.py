"""Distillation losses for dense prediction, one file a paper."""
