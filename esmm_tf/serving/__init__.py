"""A trained model for servers: SavedModels, requests, a local server, proof of what is served."""
