"""The commands of `gwrelay bench`, in the order of its --help."""

NAMES = (
    *("append", "replay", "compaction", "queue_million", "idle", "selfcheck"),
    *("relay_one_site", "relay_many_sites", "wan", "burst", "backlog", "tls"),
    *("session", "cost", "sessions", "big", "mx", "mixed", "storm", "schedule", "window"),
)

#: What they are used with, by command: a module each.
TOOLS = {"source": "sending", "sink": "taking", "dns": "naming", "plot": "plot"}
