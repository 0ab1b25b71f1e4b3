"""The cache-aware FastConformer encoder: one step for a batch of slots."""
