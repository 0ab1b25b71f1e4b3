"""Nodes near the user: relays with a ring (see the issue on edge nodes; empty for now)."""
