"""InfraValidator: a candidate that model servers do not serve right is not pushed."""
