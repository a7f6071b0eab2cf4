"""The scenarios of `gwrelay bench`, in the order of its --help."""

NAMES = (
    *("append", "replay", "compaction", "queue_million", "idle", "selfcheck"),
    *("session", "cost", "sessions", "big", "mx", "mixed", "storm", "schedule", "window"),
)
