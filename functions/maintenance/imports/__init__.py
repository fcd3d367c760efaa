"""Imports of public data into our database: members' expenses and the registry of lobbyists.

Each file is read completely before the first change, so a truncated file, or a page in place of a file, changes
nothing. The changes are batches, each one transaction; an import that was killed continues with the next one.
"""
