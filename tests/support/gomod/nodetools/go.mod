module switchgear.dev/tests/nodetools

go 1.24.0
