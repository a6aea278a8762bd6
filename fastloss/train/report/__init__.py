"""Pages of what was trained, beside what the papers printed."""
