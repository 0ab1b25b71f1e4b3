"""Greedy decoders with pooled per-stream state: encoder frames in, tokens out."""
