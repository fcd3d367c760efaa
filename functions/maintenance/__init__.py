"""Scheduled jobs. No web framework in here."""
