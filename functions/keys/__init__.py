"""Users' own provider keys: checked with the provider, stored encrypted, listed by their last four characters."""
