"""POST /chat: the turn, the providers, the wire format."""
