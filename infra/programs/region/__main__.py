"""One region: a stack per region (`pulumi stack init aws-eu-west-1`)."""

from switchgear_infra import stacks

stacks.region()
