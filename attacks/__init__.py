"""Attacks on Morphed Learning, as functions on tensors, and their scores.

The scheme is linear from end to end, so nearly every attack is linear algebra. For a scheme that
was broken in the same way see Carlini et al., "Is Private Learning Possible with Instance
Encoding?" (arXiv:2011.05315).
"""
