"""What the container image is made from; the steps are in kubeflow/Dockerfile."""
