"""Many runs of several methods: planned, executed and compared."""
