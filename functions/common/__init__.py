"""What the functions share. Knows none of them."""
