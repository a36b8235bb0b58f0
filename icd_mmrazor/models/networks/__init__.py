"""Networks by name, their classifying layer, and their features."""
