"""Files of weights: reading, strict loading, atomic writing, and resuming."""
