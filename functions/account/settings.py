"""The settings of the account."""

from functions.common.settings import StripeSettings, SupabaseSettings


class AccountSettings(SupabaseSettings, StripeSettings):
    """Stripe is called only when an account is deleted."""
