"""Everything that is particular to Kubeflow Pipelines. The compiler arrives with a later release."""
