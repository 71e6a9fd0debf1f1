"""What an edit costs: Lazy, RegenerateImage and RegenerateCrop side by side in one run. `python dev.py bench`."""
