"""Numbers in, words out: the streaming engine. Knows no socket, no session, no wall clock."""
