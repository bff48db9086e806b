"""tickloom inside other schedulers; each integration needs its extra. They call ``tickloom.drain`` and run no daemon."""
