"""The settings of key storage."""

from functions.common.settings import ProviderAddresses, SupabaseSettings


class KeysSettings(SupabaseSettings, ProviderAddresses):
    """No provider account of the platform's: keys are checked with themselves."""
