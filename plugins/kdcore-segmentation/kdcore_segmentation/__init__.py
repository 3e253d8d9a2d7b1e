"""Dense prediction for kdcore: semantic segmentation."""
