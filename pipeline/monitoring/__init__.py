"""From what is served back to what is trained: requests are recorded, compared, and labelled."""
