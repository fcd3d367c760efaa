"""The limits of the chat. Limits of one tool are in its file, of requests to the public record in sources/http.py and
sources/openparliament.py. Limits that functions share are in the files of functions/common that need them.
"""

from decimal import Decimal

# What a client may send. All texts that a model reads are limited in bytes of UTF-8, because a token is at least one
# byte: in Inuktitut syllabics every byte is a token. 16,000 bytes of English are a long section of a bill.
QUESTION_BYTES = 16_000
MESSAGES = 200
PARTS = 1_000  # of a message: tool calls and sources are many; the size of the body is limited too
PART_TYPE_CHARACTERS = 100
MODEL_CHARACTERS = 100
CONTEXT_ID_CHARACTERS = 200
CONTEXT_BYTES = 16_384

# How often a message may be edited back to a text that it had before.
EDITS_BACK = 10

# GET /chat/{id}/messages returns MESSAGES at most, and fewer if they have more bytes than this.
PAGE_BYTES = 4 * 1024 * 1024

# What the model reads of earlier turns: the newest that fit, with the results of their tools.
HISTORY_MESSAGES = 40
HISTORY_BYTES = 48_000

# What the model may do for one query. Each plan also limits the cost of a query (budget.py).
OUTPUT_TOKENS = 4_096  # a step
STEPS = 8
CALLS_A_STEP = 8
ARGUMENTS_BYTES = 4_000  # of a call; the longest valid ones have a few hundred
# Near the cost limit: what an answer needs (three paragraphs), the shortest output that is worth a step, and what one
# more step with tools usually adds (a call and its result).
ANSWER_TOKENS = 500
SHORTEST_OUTPUT_TOKENS = 150
CALL_TOKENS = 150
RESULT_TOKENS = 1_500
# An own key pays for itself. The limit stops an answer that runs away.
OWN_KEY_QUERY_COST_LIMIT_USD = Decimal("0.50")

# The tools. openparliament.ca accepts one request at a time, so a call that needs many requests takes seconds.
TOOL_S = 15.0
TOOL_RESULT_BYTES = 8_000
TOOL_SOURCES = 10
TOOL_CALLS_A_MINUTE = 30  # of a user's own assistant (mcp.py); a query makes two or three
TOOL_RESPONSE_BYTES = 4 * 1024 * 1024
TOOL_CACHE_ENTRIES = 500
TOOL_CACHE_BYTES = 16 * 1024 * 1024
TOOL_CACHE_S = 600.0
CONTEXT_S = 2.0  # for the record of the user's page: without it the answer is a little worse, but not later

# Silence of the provider after which a turn fails, and of the stream after which a comment keeps it open at proxies.
PROVIDER_CONNECT_S = 5.0
PROVIDER_SILENCE_S = 60.0
PROVIDER_CONNECTIONS = 2_000  # of a process; each has one answer
PROVIDER_END_S = 0.05  # between the last event and the end of the response; later, the connection is not used again
KEEP_ALIVE_S = 10.0
EVENT_BYTES = 1024 * 1024  # of a stream; the largest one repeats the answer and its tools: 50 KB
# Before the second and last attempt at a request that the provider did not start to answer.
RETRY_PAUSE_S = 0.3
RETRY_PAUSE_LIMIT_S = 2.0
# A provider's longer Retry-After is not passed on to the client: a person does not wait that long.
RETRY_AFTER_LIMIT_S = 120

# A turn ends early enough to settle before Lambda's deadline (180 s). A hold is longer than any turn, so it
# expires only if its process died. release_stale_holds, every minute, then deletes it with the turn's output so far:
# five minutes after its start at most.
TURN_S = 170.0
DEADLINE_MARGIN_S = 8.0
HOLD_S = 220

# At every tick, a process stores the output of its running turns and asks which of them have to stop. It leaves out
# turns that no other process reads and that were stored less than PROGRESS_S ago. A stop takes three seconds at most,
# and an answer that is resumed in another process is a second behind at most, from about a second after the resume on.
PROGRESS_TICK_S = 0.4
PROGRESS_S = 0.8
NOTES_A_CALL = 200  # the turns that one call stores
FOLLOWERS = 3  # of one answer in its own process; follow_query allows as many in all others together
FOLLOWER_S = 2.0  # how long a turn waits at its end for readers in other processes
FOLLOWER_STOPPED_S = 0.5  # the same after a stop
FOLLOW_S = 0.25  # how often a reader in another process asks

# A message in a chat whose answer runs stops that answer, and waits for its end.
EARLIER_ANSWER_S = 2.0
EARLIER_ANSWER_TICK_S = 0.1

# The database. Admission fails fast. The end of a turn is worth rounds of attempts, of SETTLE_S each, with a pause
# between them: settlement until SETTLE_MARGIN_S before Lambda's deadline, a release for one round. RELEASE_S: how long
# the refusal of an admission that may still commit waits for the release of its hold, which goes on for SETTLE_S.
ADMIT_S = 2.5
RELEASE_S = 5.0
SETTLE_S = 10.0
SETTLE_PAUSE_S = 1.0
SETTLE_MARGIN_S = 3.0

# How long a server that shuts down lets running turns finish.
SHUTDOWN_S = 5.0

# The title of a conversation: its question, with the answer added where the question has fewer words.
TITLE_CHARACTERS = 80
TITLE_WORDS = 3
TITLE_SOURCE_CHARACTERS = 1000  # of the answer; links are long, and their addresses are left out
