"""What the operator does with a user's database: look before anything is created, clean up at the end.

Messages name the check and the fix, and never the URL, the password or the server's own text unfiltered.
"""
