"""What regions share: the zone of their domain, and where images come from."""

from switchgear_infra import stacks

stacks.shared()
