"""Regions as Pulumi components: what a stack of `infra/programs` is made of."""
