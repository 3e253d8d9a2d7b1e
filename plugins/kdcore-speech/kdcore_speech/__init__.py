"""Speech for kdcore: recognition, tagging, and their distillers."""
