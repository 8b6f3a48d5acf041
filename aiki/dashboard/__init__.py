"""The web dashboard, served beside the HTTP API. Empty as yet."""
