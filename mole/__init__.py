"""Morphed Learning on tensors."""
