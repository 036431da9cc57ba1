"""The serving image beside what one would pick instead: `make bench-serving` (see `__main__`)."""
