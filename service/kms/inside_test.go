package kms_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// withSecrets are functions and methods that compute with a secret, or copy one in a form that is as good: each is called
// inside securemem.Do, or by another of them.
var withSecrets = []string{
	"Sign", "Clone", "ECDH", "DecryptOAEP", "Encapsulate", "Decapsulate", "prk", "NewSealingKey",
	"expandSecret", "unwrap", "appendPKCS8", "rsaKey", "newAgreement", "NewMessageKey", "NewPrivateKey", "NewKeyFromSeed", "ParseRawPrivateKey",
	"NewSigningKey", "NewDecapsulationKey", "ed25519Key", "secp256k1Key",
}

// makers return such a function: what stands in them runs when that is called.
var makers = []string{"ecdsaKey", "mldsaKey", "mlkemKey", "hmacWith"}

// operations are methods of the service that have the name of such a function.
var operations = []string{"Sign", "Encapsulate", "Decapsulate"}

// secretCall returns the name of such a function that a call is of, or "".
func secretCall(call *ast.CallExpr) string {
	name, of := "", ""
	switch f := call.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
		if x, ok := f.X.(*ast.Ident); ok {
			of = x.Name
		}
	}
	public := name == "ECDH" && len(call.Args) == 0 || name == "Clone" && slices.Contains([]string{"slices", "bytes", "maps", "strings"}, of)
	if public || !slices.Contains(withSecrets, name) {
		return ""
	}
	return name
}

// inside reports whether the innermost of these nodes stands in a securemem.Do, or in one of those functions.
func inside(stack []ast.Node) bool {
	for _, n := range stack {
		switch n := n.(type) {
		case *ast.FuncDecl:
			name := n.Name.Name
			if slices.Contains(makers, name) || slices.Contains(withSecrets, name) && !slices.Contains(operations, name) {
				return true
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Do" {
				if x, ok := f.X.(*ast.Ident); ok && x.Name == "securemem" {
					return true
				}
			}
		}
	}
	return false
}

// TestSecretsAreUsedInside: no file of the package computes with a secret where what it leaves on the stack and the heap
// is not erased.
func TestSecretsAreUsedInside(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]int{}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.PreorderStack(f, nil, func(n ast.Node, stack []ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && secretCall(call) != "" {
				met[secretCall(call)]++
				if !inside(stack) {
					t.Errorf("%s: %s is called outside of securemem.Do", set.Position(call.Pos()), secretCall(call))
				}
			}
			return true
		})
	}
	for _, name := range []string{"Sign", "Clone", "ECDH", "DecryptOAEP", "Encapsulate", "Decapsulate", "prk", "NewSealingKey", "expandSecret", "NewPrivateKey"} {
		if met[name] == 0 {
			t.Errorf("no call of %s was met: is it called otherwise?", name)
		}
	}
}
