"""Configuration, DAG wiring, runners, command line and reports."""
