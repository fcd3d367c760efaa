-- How long a request of a visitor or a user may run in the Data API. A filter such as `match` can run a regular
-- expression that never ends. The roles belong to the cluster, so the sources of a database do not show this setting.

alter role anon set statement_timeout = '1s';
alter role authenticated set statement_timeout = '1s';
notify pgrst, 'reload config';
