"""Whose voice it is, on one channel: voices as vectors, vectors as numbered speakers."""
