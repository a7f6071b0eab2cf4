"""The scenarios of `gwrelay bench`, in the order of its --help."""

NAMES = (
    *("session", "sessions", "cost", "big", "mx", "mixed", "storm", "schedule", "window"),
)
