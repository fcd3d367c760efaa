"""The deployed code: five independent functions and the small layer they share, `common`."""
