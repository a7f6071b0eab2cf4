"""The scenarios of `gwrelay bench`, in the order of its --help."""

NAMES = (
    *("append", "replay", "compaction", "queue_million"),
    *("session", "sessions", "big", "mx", "mixed", "schedule", "window"),
)
