"""Feeds that arrive at a node, each a parser without I/O: bytes in, events out."""
