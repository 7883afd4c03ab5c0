"""Written procedures that the machine executes: actions (name -> typed parameters, function), checks, the engine."""
