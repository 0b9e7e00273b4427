"""Serving pushed models: a development server that speaks TensorFlow Serving's two protocols.

`server.ModelServer` runs it in this process, `python -m components.model_server` as a process of
its own, `launch` starts the best server present behind one interface, and `client` talks to any.
"""
