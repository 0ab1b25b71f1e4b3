"""Speech recognition for the frameworks of others; each module needs its framework installed."""
