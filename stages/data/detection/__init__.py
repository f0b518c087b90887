"""Pictures with boxes around their objects: generated scenes, and readers of the formats that published sets have."""
