"""Reports: what people see of a run. Each consumes events or the records of events."""
