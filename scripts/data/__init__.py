"""Catalogues for training: a CSV or JSONL with photos, MNIST, or a TensorFlow Datasets image set, read into one shape."""
