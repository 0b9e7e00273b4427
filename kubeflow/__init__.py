"""What is particular to Kubeflow Pipelines. So far nothing: the DAG runs locally."""
