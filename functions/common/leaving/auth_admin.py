"""Deletes users through Supabase Auth's admin API, with the service role's key."""

from functions.common.database import request_headers
from functions.common.errors import Unavailable
from functions.common.settings import SupabaseSettings

# Auth deletes the user's rows in all our tables in the same transaction. History is deleted before, in batches.
TIMEOUT_S = 30.0


class AuthAdmin:
    """The admin API of one Supabase project."""

    def __init__(self, settings: SupabaseSettings) -> None:
        self._url = f"{settings.url}/auth/v1"
        self._headers = request_headers(settings.service_role_key.get_secret_value())

    async def delete_user(self, user_id: str) -> bool:
        """Delete a user and their sessions. Returns whether the user existed. Raises Unavailable."""
        # Imported here, because it takes 0.3 s and only a deletion needs it.
        from httpx import AsyncClient
        from supabase_auth import AsyncGoTrueAdminAPI
        from supabase_auth.errors import AuthApiError, AuthError

        client = AsyncClient(timeout=TIMEOUT_S)
        async with AsyncGoTrueAdminAPI(url=self._url, headers=self._headers, http_client=client) as api:
            try:
                await api.delete_user(user_id)
            except AuthApiError as error:
                if error.code == "user_not_found":
                    return False
                raise Unavailable(upstream=f"{error.status} {error.code}") from error
            except AuthError as error:
                raise Unavailable(upstream=type(error).__name__) from error
        return True
