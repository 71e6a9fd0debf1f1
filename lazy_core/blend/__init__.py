"""What stands in a hole before anything reads the canvas, and how its pixels meet the canvas in the end."""
