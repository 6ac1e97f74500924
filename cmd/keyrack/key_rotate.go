package main

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// The commands of rotation.
var (
	// keyRotateCommand is kms:RotateKeyOnDemand.
	keyRotateCommand = command{
		name: "key rotate", args: "KEY", short: "give a key new material now",
		long: `
From the next request on, what is encrypted under the key is encrypted by new
material. What was encrypted before decrypts as before, and its ciphertexts stay as
they are: keyrack re-encrypt takes them over to the new material. KEY is a symmetric
key: a key id, an ARN or an alias. A key can be rotated so 25 times; rotations that
keyrack key rotation enable has turned on do not count.`,
		examples: []string{"keyrack key rotate alias/mail"},
		flags: func(fs *flag.FlagSet) action {
			return switchKey(fs, kmsapi.RotateKeyOnDemand, func(k api.KeyRef) *kmsapi.RotateKeyOnDemandRequest {
				return &kmsapi.RotateKeyOnDemandRequest{KeyId: k}
			})
		},
	}
	// keyRotationEnableCommand is kms:EnableKeyRotation.
	keyRotationEnableCommand = command{
		name: "key rotation enable", args: "KEY [--days N]", short: "let the appliance rotate a key by itself",
		long: `
The appliance gives the key new material N days from now and every N days after
that. For a key that it rotates already another N begins now. While a key is disabled
it is not rotated; what was due meanwhile is done when it is enabled again. KEY is a
symmetric key whose material was made here: a key id, an ARN or an alias.`,
		examples: []string{
			"keyrack key rotation enable alias/mail",
			"keyrack key rotation enable alias/mail --days 90",
		},
		flags: keyRotationEnableFlags,
	}
	// keyRotationDisableCommand is kms:DisableKeyRotation.
	keyRotationDisableCommand = command{
		name: "key rotation disable", args: "KEY", short: "let a key keep its material until it is rotated by hand",
		long: `
The appliance does not rotate the key by itself any more; keyrack key rotate still
does. KEY is a key id, an ARN or an alias.`,
		examples: []string{"keyrack key rotation disable alias/mail"},
		flags: func(fs *flag.FlagSet) action {
			return switchKey(fs, kmsapi.DisableKeyRotation, func(k api.KeyRef) *kmsapi.DisableKeyRotationRequest {
				return &kmsapi.DisableKeyRotationRequest{KeyId: k}
			})
		},
	}
	// keyRotationStatusCommand is kms:GetKeyRotationStatus.
	keyRotationStatusCommand = command{
		name: "key rotation status", args: "KEY", short: "whether and when the appliance rotates a key by itself",
		long: `
Prints whether the appliance rotates the key by itself, every how many days, and when
the next time is. A key that is to be deleted is not rotated until that is cancelled.
KEY is a key id, an ARN or an alias.`,
		examples: []string{"keyrack key rotation status alias/mail"},
		flags:    keyRotationStatusFlags,
	}
	// keyRotationListCommand is kms:ListKeyRotations, all pages of it.
	keyRotationListCommand = command{
		name: "key rotation list", args: "KEY [--all]", short: "the rotations of a key, or all its materials",
		long: `
Prints the id of each material that a rotation made current, the oldest first, and
behind it its state, how it was rotated and when. With --all the first material and
one that waits for its rotation are among them. KEY is a key id, an ARN or an alias.`,
		examples: []string{
			"keyrack key rotation list alias/mail",
			"keyrack key rotation list alias/mail --all --output json",
		},
		flags: keyRotationListFlags,
	}
)

func keyRotationEnableFlags(fs *flag.FlagSet) action {
	days := int64(api.RotationPeriod)
	daysFlag(fs, &days, "rotate every `N` days", 90, 2560)
	return switchKey(fs, kmsapi.EnableKeyRotation, func(k api.KeyRef) *kmsapi.EnableKeyRotationRequest {
		return &kmsapi.EnableKeyRotationRequest{KeyId: k, RotationPeriodInDays: days}
	})
}

// daysFlag declares --days, whose default is what *to is. It looks at the range here,
// because a request cannot tell 0 from a number that was left out.
func daysFlag(fs *flag.FlagSet, to *int64, usage string, least, most int64) {
	fs.Func("days", fmt.Sprintf("%s, %d to %d (default %d)", usage, least, most, *to), func(text string) (err error) {
		if *to, err = strconv.ParseInt(text, 10, 64); err != nil || *to < least || *to > most {
			return fmt.Errorf("want a number of days, %d to %d", least, most)
		}
		return nil
	})
}

func keyRotationStatusFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := call(c, kmsapi.GetKeyRotationStatus, &kmsapi.GetKeyRotationStatusRequest{KeyId: ref})
		if err != nil {
			return err
		}
		rows := [][2]string{{"rotation", "disabled"}}
		if out.KeyRotationEnabled {
			rows = [][2]string{
				{"rotation", "enabled"}, {"every", fmt.Sprintf("%d days", out.RotationPeriodInDays)}, {"next", out.NextRotationDate.Time().Format(time.RFC3339)},
			}
		}
		return format.print(sh.out, responseJSON(kmsapi.GetKeyRotationStatus.Op, out), columns(rows))
	})
}

func keyRotationListFlags(fs *flag.FlagSet) action {
	every := fs.Bool("all", false, "show the first material and one that is pending, too")
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		include := kmsapi.RotationsOnly
		if *every {
			include = kmsapi.AllKeyMaterial
		}
		all, err := listRotations(c, key, include)
		if err != nil {
			return err
		}
		var rows [][2]string
		for i := range all.Rotations {
			rows = append(rows, [2]string{all.Rotations[i].KeyMaterialId, rotationText(&all.Rotations[i])})
		}
		return format.print(sh.out, responseJSON(kmsapi.ListKeyRotations.Op, all), columns(rows))
	})
}

// rotationText says what people read of a material behind its id.
func rotationText(r *kmsapi.RotationsListEntry) string {
	words := []string{r.KeyMaterialState.String()}
	if r.RotationType != 0 {
		words = append(words, r.RotationType.String(), r.RotationDate.Time().Format(time.RFC3339))
	}
	if r.ImportState != 0 {
		words = append(words, r.ImportState.String())
	}
	if r.ValidTo != 0 {
		words = append(words, "until", r.ValidTo.Time().Format(time.RFC3339))
	}
	if r.KeyMaterialDescription != "" {
		words = append(words, r.KeyMaterialDescription)
	}
	return strings.Join(words, " ")
}

// listRotations returns all pages as one.
func listRotations(c *client.Client, key string, include kmsapi.IncludeKeyMaterial) (*kmsapi.ListKeyRotationsResponse, error) {
	ref, err := keyOnly(c, key)
	if err != nil {
		return nil, err
	}
	all := &kmsapi.ListKeyRotationsResponse{}
	for marker := ""; ; {
		page, err := call(c, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{KeyId: ref, IncludeKeyMaterial: include, Marker: marker})
		if err != nil {
			return nil, err
		}
		all.Rotations = append(all.Rotations, page.Rotations...)
		if marker = page.NextMarker; marker == "" {
			return all, nil
		}
	}
}
