"""Numbers into tables, plots and pages."""
