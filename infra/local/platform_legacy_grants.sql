-- The default privileges of projects older than 30 October 2026: every object that `postgres` creates in public is
-- granted to the three API roles with all privileges. supabase_admin runs it after platform.sql and before the first
-- migration. The migrations must revoke enough under both sets of defaults.
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to anon, authenticated, service_role;
