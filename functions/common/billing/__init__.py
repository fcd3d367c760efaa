"""What Stripe and the database tell each other: which plan a customer has, which packs were paid, what overage is owed.

`stripe_client` is the way there, `look` reads Stripe's present state, `overage` puts what is owed on invoices, `events`
does for each event what it calls for.
"""
