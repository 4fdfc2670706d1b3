//go:build tools

// Package tools pins Pulumi's Python language host, which the tests build from its published Go module.
package tools

import _ "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python"
