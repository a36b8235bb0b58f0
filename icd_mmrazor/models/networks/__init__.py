"""Networks by name, their classifying layers, features, image preparation."""
