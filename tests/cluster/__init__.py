"""Tests on the cluster that KUBECONFIG names: `make cluster-test`. They make what they need in
namespaces of their own, and take it away again.
"""
