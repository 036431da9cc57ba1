"""What a release is worth: how often the judge is wrong, how soon it is right, and what users pay until then."""
