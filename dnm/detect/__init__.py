"""Where a network is short of capacity: one file per theory, each a pure function of a probe batch."""
