"""The load laboratory: many live streams at once, what they feel, and how many a server holds."""
