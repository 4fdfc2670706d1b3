"""Subscriptions (`__ds`): who is told of new data in which streams, durably. `api` is the way in."""
