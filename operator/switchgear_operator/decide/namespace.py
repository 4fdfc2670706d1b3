"""Namespaces: our role bindings go when the last of our objects has gone. Pure."""

from __future__ import annotations

from switchgear_model import labels
from switchgear_operator.actions import Action, Decision, Delete, Merge
from switchgear_operator.kube.refs import Ref
from switchgear_operator.snapshot import NamespaceSnapshot


def decide(snapshot: NamespaceSnapshot) -> Decision:
    """Nothing while anything of ours is left: cleaning that up needs the rights."""
    if snapshot.ours_left:
        return Decision()
    actions: list[Action] = []
    for name, binding in sorted(snapshot.bindings.items()):
        ref = Ref("RoleBinding", snapshot.name, name)
        metadata = binding["metadata"]
        uid = metadata["uid"]
        if metadata.get("deletionTimestamp") is None:
            actions.append(Delete(ref, uid))
        finalizers = metadata.get("finalizers") or []
        if labels.FINALIZER in finalizers:
            rest = [name for name in finalizers if name != labels.FINALIZER]
            actions.append(Merge(ref, {"metadata": {"finalizers": rest}}, uid))
    return Decision(tuple(actions))
