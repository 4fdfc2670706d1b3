"""The management API: REST calls in, Switchgear resources out.

It keeps nothing of its own beside the resources, and may do only what `switchgear_model.rbac` grants to it.
"""
