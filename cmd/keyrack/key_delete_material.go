package main

import (
	"cmp"
	"flag"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// keyDeleteMaterialCommand is kms:DeleteImportedKeyMaterial.
var keyDeleteMaterialCommand = command{
	name: "key delete-material", args: "KEY [--material ID] [--dry-run]", short: "destroy imported key material",
	long: `
Destroys the imported material of a key, the current one without --material. Nobody can
use the key from then on, until the same material is imported again. Material that
waits for its rotation is forgotten, and the key goes on. It asks for nothing, because
whoever has the original can bring it back: --dry-run shows which material it would be,
what state the key would be in, when it was used last and which aliases name it.`,
	examples: []string{"keyrack key delete-material alias/mail --dry-run", "keyrack key delete-material alias/mail"},
	flags:    keyDeleteMaterialFlags,
}

// keyDeleteMaterialFlags declares the flags and acts.
func keyDeleteMaterialFlags(fs *flag.FlagSet) action {
	id := fs.String("material", "", "destroy the material with `ID`, 64 hex digits, of a symmetric key")
	dry := fs.Bool("dry-run", false, "show what would become of the key, and change nothing")
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		if *dry {
			l, err := lossOf(c, ref, *id)
			if err != nil {
				return err
			}
			return format.print(sh.out, l, columns(append(l.rows(), [][2]string{{"would be destroyed", cmp.Or(l.KeyMaterialId, "the key's material")}, {"state then", l.KeyStateThen}}...)))
		}
		out, err := call(c, kmsapi.DeleteImportedKeyMaterial, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: ref, KeyMaterialId: *id})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.DeleteImportedKeyMaterial.Op, out), "")
	})
}

// loss is what a key would be without a material, beside what needs it.
type loss struct {
	*need
	KeyMaterialId string `json:",omitempty"` // absent for one that is not symmetric, which has only one
	KeyStateThen  string
}

// lossOf asks what deleting a material, "" for the current one, would do to a key. It returns
// the errors that the deletion itself would.
func lossOf(c *client.Client, ref api.KeyRef, id string) (*loss, error) {
	n, err := needs(c, ref)
	if err != nil {
		return nil, err
	}
	m := n.meta
	if m.Origin != kmsapi.OriginExternal {
		return nil, api.Errorf(api.KindUnsupportedOperation, "%s origin is %s which is not valid for this operation.", m.Arn, m.Origin)
	}
	l := &loss{need: n, KeyMaterialId: cmp.Or(id, m.CurrentKeyMaterialId), KeyStateThen: kmsapi.StatePendingImport.String()}
	if m.KeyState == kmsapi.StatePendingDeletion {
		l.KeyStateThen = n.KeyState
	}
	if id == "" {
		return l, nil
	}
	all, err := listRotations(c, m.Arn, kmsapi.AllKeyMaterial)
	if err != nil {
		return nil, err
	}
	for _, r := range all.Rotations {
		if r.KeyMaterialId != id {
			continue
		}
		if r.KeyMaterialState == kmsapi.MaterialPendingRotation {
			l.KeyStateThen = n.KeyState
		}
		return l, nil
	}
	return nil, api.Errorf(api.KindNotFound, "%s has no key material %s", m.Arn, id)
}
