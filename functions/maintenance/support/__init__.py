"""The commands of supporters and operators: `python -m functions.maintenance user …`, `costliest`, `announce`, …

`commands` has the command line, `session` what every command gets, `user_actions` and `operations` what they change,
`show` and `why` what they print. Every change needs a reason and is recorded in the table operator_actions.
"""
