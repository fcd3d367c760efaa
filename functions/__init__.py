"""The deployed code: six independent functions and the small layer they share, `common`."""

import gc

# Collect less often. Imports create objects that last: looking for garbage among them takes some percent of a cold
# start. Many streams create many objects too, but few objects form long-lived reference cycles.
gc.set_threshold(10_000, 20, 50)
