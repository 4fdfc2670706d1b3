"""Rights are enumerated, and nobody may look through Secrets."""

from switchgear_model import kinds, labels, rbac


def rules() -> list[tuple[str, dict[str, list[str]]]]:
    return [
        (f"{obj['kind']} {obj['metadata']['name']}", rule)
        for obj in rbac.objects("sys")
        if obj["kind"] in ("ClusterRole", "Role")
        for rule in obj["rules"]
    ]


def test_nothing_is_granted_wholesale() -> None:
    for where, rule in rules():
        for part in ("verbs", "resources", "apiGroups"):
            assert "*" not in rule[part], where
        assert not {"escalate", "impersonate"} & set(rule["verbs"]), where


def test_secrets_are_never_listed_or_watched() -> None:
    for where, rule in rules():
        if "secrets" in rule["resources"]:
            assert not {"list", "watch", "update", "deletecollection"} & set(rule["verbs"]), where


def test_status_is_written_by_the_operator_alone() -> None:
    plurals = [info.plural for info in kinds.KINDS.values()]
    for where, rule in rules():
        if any(f"{plural}/status" in rule["resources"] for plural in plurals):
            assert where == f"ClusterRole {labels.OPERATOR_ACCOUNT}"


def test_binding_is_limited_to_the_two_roles_for_secrets() -> None:
    binds = [rule for _, rule in rules() if "bind" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in binds] == [[labels.OPERATOR_SECRETS_ROLE, labels.API_SECRETS_ROLE]]


def test_everything_of_the_installation_is_in_its_namespace() -> None:
    for obj in rbac.objects("elsewhere"):
        if "namespace" in obj["metadata"]:
            assert obj["metadata"]["namespace"] == "elsewhere"
        for subject in obj.get("subjects", []):
            assert subject["namespace"] == "elsewhere"
