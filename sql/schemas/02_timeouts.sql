-- How long a statement of a visitor or a user may run in the Data API, whose filters and embedded resources are SQL
-- that anyone may write. The roles belong to the cluster, so a comparison of databases does not show this setting.

alter role anon set statement_timeout = '1s';
alter role authenticated set statement_timeout = '1s';
notify pgrst, 'reload config';
