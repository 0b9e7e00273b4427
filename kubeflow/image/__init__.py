"""Contents of the container image; kubeflow/Dockerfile has the steps."""
