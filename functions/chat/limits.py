"""Everything that the chat bounds, in one place. What a body may weigh is common.web's, 256 KiB."""

# What a person may send. A question of 16,000 characters is about 4,000 tokens, a long bill's section.
QUESTION_CHARACTERS = 16_000
MESSAGES = 200
PARTS = 1_000  # tools and their sources make many; the body bounds what they weigh
CONTEXT_BYTES = 16_384

# No tokenizer fits two providers' models. English takes about four characters a token, French and JSON fewer.
CHARACTERS_A_TOKEN = 3

# How often one may edit a question back to words that it had before.
EDITS_BACK = 10

# What the model is sent of the past: the newest turns that fit, with what their tools found.
HISTORY_MESSAGES = 40
HISTORY_TOKENS = 16_000
HISTORY_CHARACTERS = HISTORY_TOKENS * CHARACTERS_A_TOKEN

# What the model may do for one query. Beside this, each plan has a ceiling of what a query may cost.
OUTPUT_TOKENS = 4_096  # a step
STEPS = 8
CALLS_A_STEP = 8

# The tools. openparliament.ca takes one request at a time, so a call that has to ask for much takes seconds.
TOOL_S = 15.0
TOOL_RESULT_TOKENS = 2_600
TOOL_RESULT_CHARACTERS = 8_000
TOOL_SOURCES = 10
TOOL_RESPONSE_BYTES = 4 * 1024 * 1024
TOOL_CACHE_ENTRIES = 500
TOOL_CACHE_BYTES = 16 * 1024 * 1024
TOOL_CACHE_S = 600.0
CONTEXT_S = 2.0  # of the page that the user is on: without it the answer is a little worse, and not later

# Silence of the provider after which the turn has failed, and of the stream after which proxies are kept awake.
PROVIDER_CONNECT_S = 5.0
PROVIDER_SILENCE_S = 60.0
KEEP_ALIVE_S = 10.0
# Before the second and last attempt at a request that the provider did not begin to answer.
RETRY_PAUSE_S = 0.3
RETRY_PAUSE_LIMIT_S = 2.0

# A hold outlives the function that took it (180 s on Lambda), so only a dead process loses one. A turn ends in time to
# say so and to settle, whatever deadline Lambda has set it.
TURN_S = 170.0
DEADLINE_MARGIN_S = 8.0
HOLD_S = 240

# How often a running turn tells other processes what it has said and asks whether it is to stop, how long it waits at
# its end for one that is still reading, and how often they look. A stop is promised within two seconds, all of it.
PROGRESS_S = 0.7
FOLLOWER_S = 2.0
FOLLOWER_STOPPED_S = 0.5
FOLLOW_S = 0.25

# The database: admission refuses rather than waits; the end of a turn is worth several attempts.
ADMIT_S = 2.5
SETTLE_S = 10.0

# What a stopping server gives running turns to end by themselves.
SHUTDOWN_S = 5.0

TITLE_CHARACTERS = 80
