"""What the steps share: data sets, morphing, training, artifacts, records."""
