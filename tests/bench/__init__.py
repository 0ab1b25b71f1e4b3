"""Measurements: speed of the service on this machine, as figures a command wrote."""
