"""Settings, logging, atomic outputs, resuming, launching, live curves. Nothing here can change a result."""
