"""Verbs of ``rivulet`` whose work the engine's side does: arguments in, results drawn."""
