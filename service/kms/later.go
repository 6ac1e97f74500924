package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// later are the operations of the table whose method does not stand yet: they are
// decoded, decided and recorded like all others, and refused.
func later(g *access.Gate) []access.Route {
	return []access.Route{
		to(g, kmsapi.GetParametersForImport),
		to(g, kmsapi.ImportKeyMaterial),
		to(g, kmsapi.DeleteImportedKeyMaterial),
	}
}

func to[In, Out any](g *access.Gate, op api.OpOf[In, Out]) access.Route {
	return access.Handle(g, op, func(c *access.Call, _ *In, _ *Out) error {
		if err := c.Admit(access.Any(c)); err != nil {
			return err
		}
		return api.Errorf(api.KindUnsupportedOperation, "%s is not offered by this version of the appliance", op.Name)
	})
}
