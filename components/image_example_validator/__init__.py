"""ImageExampleValidator: anomalies stop the run before anything is trained on them."""
