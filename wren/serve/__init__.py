"""A model over HTTP: OpenAI's endpoints, and a page to chat with it (extra `serve`)."""
