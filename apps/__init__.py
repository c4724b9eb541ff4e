"""Files, terminal and network: the verbs of the command line and the formats they read."""
