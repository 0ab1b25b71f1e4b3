"""Verbs of the command ``rivulet`` whose work the engine's side does: arguments in, results drawn."""
