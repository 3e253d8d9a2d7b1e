"""Draft models for speculative decoding: trained by distillation, proved by decoding."""
