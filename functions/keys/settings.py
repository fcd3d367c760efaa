"""The settings of key storage."""

from functions.common.settings import ProviderAddresses, SupabaseSettings


class KeysSettings(SupabaseSettings, ProviderAddresses):
    """No provider account of the platform: each key is checked with itself."""
