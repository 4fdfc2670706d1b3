"""The components that programs are made of."""
