"""The DAG on Kubeflow Pipelines, and what is served on Kubernetes: see README.md."""
