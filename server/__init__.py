"""Sessions and wires: the WebSocket front, the session manager and the engine processes."""
