"""The TLS settings of the standard library's clients."""

import ssl
from functools import cache


@cache
def tls_context() -> ssl.SSLContext:
    """Shared, because reading the certificates takes 30 ms of CPU."""
    return ssl.create_default_context()
