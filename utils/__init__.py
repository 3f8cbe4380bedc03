"""Morphed Learning: the scheme in tensors, what crosses from provider to developer, training."""
