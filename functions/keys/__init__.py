"""The keys that users bring: stored sealed, checked with their provider, listed by their last four characters."""
