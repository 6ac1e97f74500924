package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// refused are the operations that this appliance answers with UnsupportedOperation to
// everybody whom the door lets through: those that make custom key stores, of which
// there are none.
func refused(g *access.Gate) []access.Route {
	return []access.Route{
		refuse(g, kmsapi.CreateCustomKeyStore),
		refuse(g, kmsapi.UpdateCustomKeyStore),
		refuse(g, kmsapi.DeleteCustomKeyStore),
		refuse(g, kmsapi.ConnectCustomKeyStore),
		refuse(g, kmsapi.DisconnectCustomKeyStore),
	}
}

func refuse[In, Out any](g *access.Gate, op api.OpOf[In, Out]) access.Route {
	return access.Handle(g, op, func(c *access.Call, _ *In, _ *Out) error {
		if err := c.Admit(access.Any(c)); err != nil {
			return err
		}
		return api.Errorf(api.KindUnsupportedOperation, "%s is not supported: the keys of this appliance are in its own store, under its own token, and there are no custom key stores", op.Name)
	})
}

// DescribeCustomKeyStores lists the custom key stores, of which there are none. The door
// is asked for "*", as AWS does. (AWS KMS API Reference, DescribeCustomKeyStores.)
//
// Errors in the order in which they are found: ValidationException (an id and a name),
// AccessDenied, InvalidMarker (no page before had one), CustomKeyStoreNotFound (a store
// is named).
func (s *Service) DescribeCustomKeyStores(c *access.Call, in *kmsapi.DescribeCustomKeyStoresRequest, _ *kmsapi.DescribeCustomKeyStoresResponse) error {
	if err := c.Admit(access.Any(c)); err != nil {
		return err
	}
	if _, err := s.after(c, "", in.Marker); err != nil {
		return err
	}
	if name := in.CustomKeyStoreId + in.CustomKeyStoreName; name != "" {
		return api.Errorf(api.KindCustomKeyStoreNotFound, "There is no custom key store %s: this appliance has none", name)
	}
	return nil
}
