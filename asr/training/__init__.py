"""Training of the embedded model: data, augmentation, losses, loop, export.

Does: everything from manifests to a checkpoint NeMo can load, in pure torch.
Does not know: streaming, engines, servers.
"""
