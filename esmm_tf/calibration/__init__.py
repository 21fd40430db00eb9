"""Maps that make a trained model's probabilities fit records it never saw."""
