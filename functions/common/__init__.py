"""Code that the functions share. Imports none of them."""
