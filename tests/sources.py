"""The public record where one server stands in for all its sources."""

from functions.chat.sources import Addresses, Parliament
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from infra.local.stack import Stack


def addresses_at(url: str) -> Addresses:
    """All sources at one address."""
    url = url.rstrip("/")
    return Addresses(openparliament=url, represent=url, legisinfo=f"{url}/legisinfo", ourcommons=url, lobbying=url)


def parliament_at(url: str, contact: str = "tests", database: Database | None = None) -> Parliament:
    """All sources at one address. `database` has the imported data."""
    return Parliament.at(addresses_at(url), contact, database)


def database_of(stack: Stack) -> Database:
    """The stack's database, which has the sample of the imported data, for a job or a chat in this process."""
    info = stack.info
    keys = {"SUPABASE_ANON_KEY": info["publishable_key"], "SUPABASE_SERVICE_ROLE_KEY": info["secret_key"]}
    settings = load(SupabaseSettings, {"SUPABASE_URL": info["supabase_url"], **keys})
    return Database(settings, Observer("sources-in-test"))
