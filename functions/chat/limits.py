"""Everything that the chat bounds, in one place."""

# What a person may send. A question of 16,000 characters is about 4,000 tokens, a long bill's section.
QUESTION_CHARACTERS = 16_000
MESSAGES = 200
PARTS = 100
CONTEXT_BYTES = 16_384

# What the model is sent: the newest messages that fit, about 12,000 tokens of history.
HISTORY_MESSAGES = 40
HISTORY_CHARACTERS = 48_000

# What the model may write.
OUTPUT_TOKENS = 4_096

# Silence of the provider after which the turn has failed, and of the stream after which proxies are kept awake.
PROVIDER_CONNECT_S = 5.0
PROVIDER_SILENCE_S = 60.0
KEEP_ALIVE_S = 10.0

# A hold outlives the function that took it (180 s on Lambda), so only a dead process loses one.
TURN_S = 170.0
HOLD_S = 240

# The database: admission refuses rather than waits; the end of a turn is worth several attempts.
ADMIT_S = 2.5
SETTLE_S = 10.0

# What a stopping server gives running turns to end by themselves.
SHUTDOWN_S = 5.0

TITLE_CHARACTERS = 80
