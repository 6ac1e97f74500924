//go:build goexperiment.runtimesecret && linux && (amd64 || arm64)

package securemem

const erases = true
