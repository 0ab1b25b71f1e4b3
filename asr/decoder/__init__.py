"""Decoders with pooled per-stream state, and what they may favour: phrases, a language model."""
