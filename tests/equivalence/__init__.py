"""Our engine against NeMo."""
