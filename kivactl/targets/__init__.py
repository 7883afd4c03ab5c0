"""Where a platform runs: the `Target` protocol and its implementations; `open_target()` is the only place that knows all."""
