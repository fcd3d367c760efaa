"""Deploys to AWS: `make deploy`, `make smoke`, `make rollback`, `make secrets` and `make rotate` (docs/deploy.md)."""
