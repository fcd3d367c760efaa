"""Export and deletion of everything that is stored about a user: by the user (account) and by operators (maintenance).

No imports here: an export needs neither Stripe's SDK nor the client of Supabase Auth.
"""
