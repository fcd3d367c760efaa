"""The stack behind `make run` and the tests: what `supabase start` gives, without Docker, and the functions."""
