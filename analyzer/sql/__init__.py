"""Reports and findings, views, the locked-down engine, the diagnosis."""
