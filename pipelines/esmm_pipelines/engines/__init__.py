"""What a pipeline runs on: DuckDB on this machine, or Spark."""
