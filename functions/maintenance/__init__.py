"""Scheduled jobs and operators' commands. No web framework is imported here."""
