"""Custom TFX components, one folder each: component.py is the interface, executor.py the work."""
