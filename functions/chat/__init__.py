"""POST /chat: the turn, the providers, the wire format."""

PRODUCT = "CanadaGPT/0.1"  # the user agent of requests to other organizations
