"""How many devices a service needs: arithmetic and a simulation, no server."""
