"""A trained model for servers: SavedModels, requests, a local server, and proof of what is served."""
