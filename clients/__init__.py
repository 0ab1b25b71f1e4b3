"""Light programs that speak to a rivulet server (numpy and websockets, no torch)."""
