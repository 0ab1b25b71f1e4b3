"""Nodes near the user: media in where it arrives, words out, whatever the backhaul does."""
