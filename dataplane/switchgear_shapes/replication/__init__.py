"""The replication stream: the conversation with the walsender, its messages, the publication."""
