"""The Keras model: feature columns, embeddings, towers, losses and optimizers."""
