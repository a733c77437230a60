"""What a reader wants to know of a trained model before it is trusted: where it is wrong, how sure, and on what rows.

Slices and duplicates are pure; the page shows what the findings are.
"""
