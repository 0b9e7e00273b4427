"""What runs on Kubernetes. So far that is serving: see serving/README.md. The DAG runs locally."""
