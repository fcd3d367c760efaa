-- The default privileges of projects before 30 October 2026: whatever `postgres` creates in public is granted, whole,
-- to the three API roles. Run by supabase_admin after platform.sql and before the first migration: what the
-- migrations lock must stay locked under both.
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to anon, authenticated, service_role;
