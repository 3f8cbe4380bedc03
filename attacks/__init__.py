"""What an adversary gets out of Morphed Learning, as functions on tensors; who plays them, scored.

The scheme is linear from end to end, so nearly every attack is linear algebra; compare Carlini et
al., "Is Private Learning Possible with Instance Encoding?" (arXiv:2011.05315), on a scheme that
fell likewise.
"""
